"""The bf16 matrix peak of this device, now: the best of a sweep of torch.mm. A process of its own.

python matrix_peak.py SPEC RESULT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from flops import shape_of
from meter import Meter, wait, write_result

SQUARES = {"cpu": (2048,), "cuda": (2048, 8192, 16384)}
ROWS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 16384)}
REPEATS, AT_LEAST_S = 3, 0.1


def best_rate(rows: int, inner: int, columns: int, device: str) -> float:
    """GFLOP/s: [rows, inner] x [inner, columns], the right one stored either way, whichever is faster."""
    left = torch.randn(rows, inner, device=device).bfloat16()
    right = torch.randn(inner, columns, device=device).bfloat16()
    out = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
    best = 0.0
    for stored in (right, right.t().contiguous().t()):
        torch.mm(left, stored, out=out)
        wait()
        began, times = time.perf_counter(), 0
        while times < REPEATS or time.perf_counter() - began < AT_LEAST_S:
            start = time.perf_counter()
            torch.mm(left, stored, out=out)
            wait()
            best = max(best, 2e-9 * rows * inner * columns / (time.perf_counter() - start))
            times += 1
    return best


def main() -> None:
    """Sweep and write."""
    meter = Meter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    device = spec["device"]
    shapes = [(square, square, square) for square in SQUARES[device]]
    shapes += [(rows, *matrix) for matrix in shape_of(Path(spec["model"])).matrices for rows in ROWS[device]]
    meter.begin()
    rates = {" x ".join(map(str, shape)): best_rate(*shape, device) for shape in shapes}
    write_result(Path(sys.argv[2]), {"gflops": rates, **meter.shares()})


if __name__ == "__main__":
    main()

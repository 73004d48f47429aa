"""What the benchmarks have for a GPU, in eight minutes at most: one JSON with hardware and versions.

    python benchmarks/gpu.py --out ../gpu

DPO, SFT and reward steps of models of 0.1, 0.5 and 1.5 billion random weights, beside TRL at its best where
the same environment has it (`pip install trl==1.16.0`); their share of the card's bf16 matrix peak, measured
here too; tokens a second of the sampler. Every measurement is a process of its own; the arms of a comparison
go ABC, then CBA. What time does not suffice for is left out and named. Where there is no GPU this says so and
writes nothing.

Written without a GPU at hand: nothing of it has been measured yet. It has no numerics gate: the losses of
both sides are in the file, to be compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent / "training"))
import made
from cases import logical_tokens
from flops import shape_of
from plan import RATE, Unit
from runner import environment, machine
from table import needed

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gpu.json"
SHAPES = ("1.5B", "0.5B", "smollm2")
MICRO_BATCHES = (8, 32)
"""Of TRL, in pairs; the faster one is its best."""
PAIRS, STEPS, WARM_UP = 32, 5, 3
ROW_TOKENS = 8192
PROMPT, RESPONSE, LONGEST = 200, 110, 1024
"""Tokens: medians of both, and the most of either."""
SPREAD = 0.6
"""Standard deviation of the logarithm of a length."""
DECODED = {"prompts": 64, "prompt": 128, "new": 128}


def units(out: Path, shapes: tuple[str, ...]) -> Iterator[Unit]:
    """The most telling first, as time may not suffice for all."""
    yield _unit(out, shapes[0], "dpo", "peak", 1)
    for shape in shapes:
        yield from (_unit(out, shape, "dpo", arm, 1) for arm in arms())
        yield from (_unit(out, shape, "dpo", arm, 2) for arm in reversed(arms()))
        yield _unit(out, shape, "decode", "trimtab", 1)
    for loss in ("sft", "reward"):
        for shape in reversed(shapes):
            yield from (_unit(out, shape, loss, arm, 1) for arm in arms())


def arms() -> list[str]:
    """Ours, and TRL's at each micro-batch."""
    return ["trimtab", *(f"trl-{size}" for size in MICRO_BATCHES)]


def _unit(out: Path, shape: str, loss: str, arm: str, number: int) -> Unit:
    spec: dict[str, Any] = {
        "loss": loss,
        "model": str(out / "models" / (f"{shape}-scorer" if loss == "reward" else shape)),
        "reference": str(out / "models" / shape),
        "precision": "bfloat16",
        "batches": str(out / "batches" / f"{shape}.json"),
        "steps": STEPS,
        "warm_up": WARM_UP,
        "rate": RATE,
        "device": "cuda",
        "row_tokens": ROW_TOKENS,
    }
    script = {"peak": "matrix_peak.py", "trimtab": "our_arm.py"}.get(arm, "their_arm.py")
    if loss == "decode":
        script, spec = "decode_arm.py", {**spec, **DECODED, "warm_up": 1, "steps": 2}
    if script == "their_arm.py":
        spec |= {
            "micro_batch": int(arm.removeprefix("trl-")),
            "checkpointing": False,
            "cached_reference": True,
            "scratch": str(out / "trl"),
        }
    return Unit(f"{loss}-{shape}", f"{arm}-{number}", script, STEPS + WARM_UP, spec)


def prepare(out: Path, unit: Unit) -> None:
    """The models and pairs that a unit reads, unless they are there."""
    shape = unit.case.partition("-")[2]
    policy = out / "models" / shape
    made.write_model(policy, shape, made.VOCABULARIES[shape])
    if unit.spec["loss"] == "reward":
        made.write_scorer(Path(unit.spec["model"]), policy)
    batches = Path(unit.spec["batches"])
    if not batches.exists():
        generator = random.Random(0)
        made.write_batches(
            batches,
            [
                [made.pair(_lengths(generator), made.VOCABULARIES[shape], generator) for _ in range(PAIRS)]
                for _ in range(STEPS + WARM_UP)
            ],
        )


def _lengths(generator: random.Random) -> list[int]:
    """Of a prompt and two responses, as spread as people's."""
    drawn = (generator.lognormvariate(math.log(middle), SPREAD) for middle in (PROMPT, RESPONSE, RESPONSE))
    return [max(1, min(LONGEST, round(length))) for length in drawn]


def run(out: Path, shapes: tuple[str, ...], until: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Results by unit, and why others are not there.

    Args:
        until: of time.monotonic: nothing is begun after it, and what runs then is ended.
    """
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for unit in units(out, shapes):
        name = f"{unit.case}/{unit.name}"
        if unit.script == "their_arm.py" and their_version() is None:
            left_out[name] = "TRL is not installed in this environment"
            continue
        if time.monotonic() > until:
            left_out[name] = "out of time"
            continue
        prepare(out, unit)
        result = one(out, unit, max(until - time.monotonic(), 1.0))
        if isinstance(result, str):
            left_out[name] = result
        else:
            found[name] = result
        print(f"{name}: {result if isinstance(result, str) else 'measured'}", file=sys.stderr, flush=True)
    return found, left_out


def their_version() -> str | None:
    """Of TRL, if it is installed; a folder of that name is not enough."""
    try:
        return importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        return None


def one(out: Path, unit: Unit, seconds: float) -> dict[str, Any] | str:
    """What the unit's process measured, or why it did not."""
    path = unit.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    spec, log = path.with_suffix(".spec"), path.with_suffix(".log")
    spec.write_text(json.dumps(unit.spec))
    command = [sys.executable, str(HERE / "training" / unit.script), str(spec), str(path)]
    try:
        with log.open("w") as file:
            code = subprocess.run(
                command, env=environment(), stdout=file, stderr=subprocess.STDOUT, timeout=seconds
            ).returncode
    except subprocess.TimeoutExpired:
        return "out of time while it ran"
    if code:
        last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
        return f"failed with {code}: {' '.join(last)[:200]}"
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def report(out: Path, found: Mapping[str, Any], left_out: Mapping[str, str]) -> dict[str, Any]:
    """The file: what was measured on, peak, every case by arm, ratios over TRL's best, what is missing."""
    peak = max(
        (max(result["gflops"].values()) for name, result in found.items() if "/peak" in name), default=None
    )
    cases: dict[str, Any] = {}
    for name, result in found.items():
        case, _, rest = name.partition("/")
        arm = rest.rpartition("-")[0]
        if arm != "peak":
            cases.setdefault(case, {}).setdefault(arm, []).append(figures(out, case, result, peak))
    return {
        "hardware": hardware(),
        **machine(f"trl {their_version()}"),
        "setup": f"{PAIRS} pairs a step, rows of {ROW_TOKENS} tokens, {STEPS} timed steps a process",
        "bf16_peak_tflops": peak and round(peak / 1e3, 1),
        "cases": cases,
        "over_trl_at_its_best": {case: ratio for case in cases if (ratio := over_best(cases[case]))},
        "left_out": dict(left_out),
    }


def figures(out: Path, case: str, result: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """Of one process."""
    loss, _, shape = case.partition("-")
    memory = {name: value for name, value in result.items() if name.startswith("gpu_")}
    if loss == "decode":
        return {"decoded_tokens_per_second": round(median(result["tokens_per_second"])), **memory}
    rows = [
        row
        for batch in json.loads((out / "batches" / f"{shape}.json").read_text())[WARM_UP:]
        for row in batch
    ]
    seconds = sum(step["seconds"] for step in result["steps"][WARM_UP:])
    operations = sum(needed(shape_of(out / "models" / shape), loss, row) for row in rows)
    return {
        "logical_tokens_per_second": round(sum(logical_tokens(loss, row) for row in rows) / seconds),
        "share_of_peak": peak and round(operations / seconds / 1e9 / peak, 4),
        "seconds": [step["seconds"] for step in result["steps"]],
        "losses": [step["loss"] for step in result["steps"]],
        "reference_seconds": result["reference_seconds"],
        "attention": result.get("attention"),
        "facts": result.get("facts"),
        **memory,
    }


def over_best(case: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """How many times as fast trimtab is as the faster micro-batch of TRL; rounds that have both."""
    speeds = {arm: [one.get("logical_tokens_per_second") for one in many] for arm, many in case.items()}
    theirs = {arm: speed for arm, speed in speeds.items() if arm.startswith("trl-")}
    if not theirs or "trimtab" not in speeds:
        return None
    best = max(theirs, key=lambda arm: median(theirs[arm]))
    return {"best": best, "ratios": [a / b for a, b in zip(speeds["trimtab"], theirs[best], strict=False)]}


def hardware() -> dict[str, Any]:
    """The card, and what drives it."""
    card = torch.cuda.get_device_properties(0)
    return {
        "name": card.name,
        "memory_gb": round(card.total_memory / 1e9, 1),
        "multiprocessors": card.multi_processor_count,
        "compute_capability": f"{card.major}.{card.minor}",
        "cuda": torch.version.cuda,
        "cards": torch.cuda.device_count(),
    }


def main() -> None:
    """Measure and write, or say that there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for models and single results")
    parser.add_argument("--shapes", nargs="+", choices=made.SHAPES, default=list(SHAPES))
    parser.add_argument("--minutes", type=float, default=8.0, help="at most, models made from seeds included")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that is written")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: torch sees no CUDA device, so nothing is measured and nothing is written")
        return
    began = time.monotonic()
    out = arguments.out.resolve()
    found, left_out = run(out, tuple(arguments.shapes), began + 60 * arguments.minutes)
    written = {**report(out, found, left_out), "minutes": round((time.monotonic() - began) / 60, 2)}
    arguments.results.write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(written["over_trl_at_its_best"], indent=1), f"\nall of it: {arguments.results}")


if __name__ == "__main__":
    main()

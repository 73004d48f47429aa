"""What a DPO step of trimtab costs as lengths, batch and vocabulary grow eightfold.

    python benchmarks/training/curves.py --out ../curves                                  # about an hour
    python benchmarks/training/curves.py --out ../curves --pictures docs/results/training  # what is there

Models of SmolLM2-135M's shape and pairs of exact lengths, both made from a seed: nothing is downloaded. Each
point is a process of its own, so that its VmHWM is its own: a step on one short pair, after which weights,
moments and all else that does not grow are held; one more to warm up; then the timed ones. A repeat goes
through all points, every other one backwards. What is done is kept and not done again.

Figures: seconds for each 10^12 operations that the step cannot do without (flops.minimum_flops), and the
memory that the steps took beyond what was held after the short one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import made
from flops import minimum_flops, shape_of
from plan import RATE, Unit
from runner import Runner, machine
from table import NOISY

FACTORS = (1, 2, 4, 8)
SHORT_PAIR = (8, 8, 8)
WARM_UP = 2
"""Steps that are not timed: the one on the short pair, and one like the timed ones."""


@dataclass(frozen=True)
class Point:
    """One size of a curve. All its pairs are alike."""

    curve: str
    factor: int
    size: int
    """What grows: tokens of prompt and response, pairs, or words of the vocabulary."""
    pairs: int
    prompt: int
    response: int
    vocabulary: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.curve}-{self.factor}"


def points(smallest: int, vocabulary: int) -> list[Point]:
    """All curves.

    Lengths grow at the same number of tokens a step, or nearly: twice as long, half as many pairs. So the
    optimizer's share, which no length changes, is the same everywhere.

    Args:
        smallest: pairs of the smallest batch, and of the shortest pairs; divisible by 8.
        vocabulary: where it does not grow.
    """
    found = []
    for factor in FACTORS:
        fewer, words = smallest // factor, vocabulary // 6 * factor
        found += [
            Point("response", factor, 16 + 254 * factor, fewer, 16, 254 * factor, vocabulary),
            Point("prompt", factor, 16 + 254 * factor, fewer, 254 * factor, 16, vocabulary),
            Point("batch", factor, smallest * factor, smallest * factor, 128, 64, vocabulary),
            Point("vocabulary", factor, words, smallest, 128, 64, words),
        ]
    return found


LABELS = {
    "response": "tokens: prompt 16 + response",
    "prompt": "tokens: prompt + response 16",
    "batch": "pairs a step (128 + 2 x 64 tokens)",
    "vocabulary": "words of the vocabulary",
}


def prepare(out: Path, shape: str, wanted: Sequence[Point], steps: int) -> None:
    """Models, token ids and facts of the machine that are not there yet."""
    plan = {"shape": shape, "steps": steps, "points": [vars(point) for point in wanted]}
    kept = out / "plan.json"
    if kept.exists() and json.loads(kept.read_text()) != plan:
        sys.exit(f"{out} was begun with other sizes: go on with the same, or take another --out")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(plan))
    if not (out / "machine.json").exists():
        (out / "machine.json").write_text(json.dumps(machine(), indent=1))
    for point in wanted:
        made.write_model(_model(out, point), shape, point.vocabulary)
        generator = random.Random(point.name)
        lengths = (point.prompt, point.response, point.response)
        batches = [[made.pair(SHORT_PAIR, point.vocabulary, generator)]]
        for _ in range(WARM_UP - 1 + steps):
            batches.append([made.pair(lengths, point.vocabulary, generator) for _ in range(point.pairs)])
        made.write_batches(_batches(out, point), batches)


def unit(out: Path, point: Point, repeat: int, steps: int) -> Unit:
    """The process that measures a point."""
    spec = {
        "loss": "dpo",
        "model": str(_model(out, point)),
        "reference": None,
        "precision": "bfloat16",
        "batches": str(_batches(out, point)),
        "steps": steps,
        "warm_up": WARM_UP,
        "rate": RATE,
        "device": "cpu",
        "row_tokens": None,
    }
    # By its tokens: the estimate of the time left goes by what a unit counts.
    tokens = point.pairs * (point.prompt + 2 * point.response) * (WARM_UP - 1 + steps)
    return Unit(point.name, f"repeat-{repeat}", "our_arm.py", tokens, spec)


def _model(out: Path, point: Point) -> Path:
    return out / "models" / str(point.vocabulary)


def _batches(out: Path, point: Point) -> Path:
    return out / "batches" / f"{point.name}.json"


def flops(out: Path, point: Point) -> int:
    """Operations that a step cannot do without."""
    shape = shape_of(_model(out, point))
    responses = [point.response] * 2
    one = minimum_flops(shape, point.prompt, responses, outputs=shape.vocabulary, scored=sum(responses))
    return point.pairs * one


def measure(out: Path, wanted: Sequence[Point], repeats: int, steps: int) -> None:
    """All repeats of all points that are missing."""
    runner = Runner(out, {})
    units = [
        unit(out, point, repeat, steps)
        for repeat in range(1, repeats + 1)
        for point in (wanted if repeat % 2 else wanted[::-1])
    ]
    runner.expect(units)
    for one in units:
        runner.run(one)


def summary(out: Path, wanted: Sequence[Point]) -> dict[str, Any]:
    """Medians over the repeats of each point, and the slopes of each curve."""
    curves: dict[str, Any] = {}
    for curve in dict.fromkeys(point.curve for point in wanted):
        found = [_figures(out, point) for point in wanted if point.curve == curve]
        measured = [figures for figures in found if figures]
        if measured:
            curves[curve] = {"points": measured, **slopes(measured)}
    return {"machine": json.loads((out / "machine.json").read_text()), "curves": curves}


def _figures(out: Path, point: Point) -> dict[str, Any]:
    paths = sorted((out / "runs" / point.name).glob("repeat-*.json"))
    results = [json.loads(path.read_text()) for path in paths]
    if not results:
        return {}
    operations = flops(out, point)
    # Of a process the quickest step: what disturbs makes slower, never faster.
    seconds = [min(step["seconds"] for step in result["steps"][WARM_UP:]) for result in results]
    beyond = [result["peak_bytes"] - result["steps"][0]["peak_bytes"] for result in results]
    return {
        **vars(point),
        "flops": operations,
        "seconds": [round(one, 4) for one in seconds],
        "seconds_per_teraflop": [round(one / operations * 1e12, 4) for one in seconds],
        "beyond_mb": [round(one / 1e6, 1) for one in beyond],
        "held_mb": round(median(result["steps"][0]["peak_bytes"] for result in results) / 1e6, 1),
        "imports_mb": round(median(result["baseline_bytes"] for result in results) / 1e6, 1),
        "disturbed": sum(result["others"] > NOISY for result in results),
    }


def slopes(measured: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the medians over a curve: how far costs are from growing in proportion, or not at all.

    Returns:
        time_exponent: s of time ~ operations^s; 1 where an operation always costs the same.
        time_spread: the dearest operation over the cheapest, less 1.
        memory_exponent: s of memory beyond what is held ~ size^s; 0 where memory stays.
    """
    each = [median(one["seconds_per_teraflop"]) for one in measured]
    memory = [max(median(one["beyond_mb"]), 0.1) for one in measured]
    found = {"time_spread": max(each) / min(each) - 1}
    if len(measured) > 1:
        seconds = [median(one["seconds"]) for one in measured]
        found["time_exponent"] = exponent([one["flops"] for one in measured], seconds)
        found["memory_exponent"] = exponent([one["size"] for one in measured], memory)
    return {name: round(value, 3) for name, value in found.items()}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """s of cost ~ size^s, by least squares of the logarithms; NaN where the sizes are equal."""
    x, y = ([math.log(one) for one in many] for many in (sizes, costs))
    middle, level = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / spread if spread else math.nan


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"- {name}: {value}" for name, value in found["machine"].items()]
    lines += [
        "",
        "| curve | size | 10^12 operations | seconds a step | a 10^12 (to x1) | beyond MB |",
    ]
    lines += ["| --- |" + " ---: |" * 5]
    for curve, figures in found["curves"].items():
        first = median(figures["points"][0]["seconds_per_teraflop"])
        for one in figures["points"]:
            each = median(one["seconds_per_teraflop"])
            mark = "\\*" if one["disturbed"] else ""
            lines.append(
                f"| {curve} x{one['factor']}{mark} | {one['size']} | {one['flops'] / 1e12:.2f} "
                f"| {median(one['seconds']):.2f} | {each:.2f} ({each / first:.2f}) "
                f"| {median(one['beyond_mb']):.0f} |"
            )
    lines += [""]
    for curve, figures in found["curves"].items():
        told = ", ".join(f"{name.replace('_', ' ')} {figures[name]}" for name in figures if name != "points")
        lines.append(f"- {curve}: {told}")
    lines.append(f"\n\\* Others used over {100 * NOISY:.0f} % of the CPU during some of its processes.")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--shape", choices=made.SHAPES, default="smollm2")
    parser.add_argument("--curves", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--pairs", type=int, default=8, help="of the smallest batch; a multiple of 8")
    parser.add_argument("--steps", type=int, default=2, help="timed ones of a process")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pictures", type=Path, help="only draw what is there, into this folder")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, or draw what is there; print the table."""
    arguments = parse()
    out = arguments.out.resolve()
    if arguments.pairs % FACTORS[-1]:
        sys.exit(f"--pairs {arguments.pairs}: has to be a multiple of {FACTORS[-1]}")
    every = points(arguments.pairs, made.VOCABULARIES[arguments.shape])
    if arguments.pictures is None:
        wanted = [point for point in every if point.curve in arguments.curves]
        prepare(out, arguments.shape, every, arguments.steps)
        try:
            measure(out, wanted, arguments.repeats, arguments.steps)
        except KeyboardInterrupt:
            sys.exit("\nstopped; what is done is kept: the same command goes on")
    found = summary(out, every)
    if arguments.pictures is not None:
        from curve_pictures import draw

        arguments.pictures.mkdir(parents=True, exist_ok=True)
        (arguments.pictures / "curves.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found["curves"], LABELS, arguments.pictures / "curves.png")
    print(table(found))


if __name__ == "__main__":
    main()

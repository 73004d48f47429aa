"""What has been measured so far, as Markdown. Reads results, runs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median
from typing import Any

from flops import Shape, shape_of
from units import CASES, EPISODES, PROMPT, Sampling, Training

Result = dict[str, Any]
Rounds = dict[int, dict[str, list[Result]]]
NOISY, STARVED = 0.1, 0.7
"""Share of the CPU that others may use, and part of its usual share that an arm must have had, before a round
is marked."""


def report(out: Path, machine: dict[str, str]) -> str:
    """All cases that have results."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    for case, plan in CASES.items():
        found = results(out, case)
        if not found:
            continue
        lines += ["", f"## {case}", ""]
        lines += sampling(found, plan, out) if isinstance(plan, Sampling) else training(found, plan)
    return "\n".join([*lines, ""])


def results(out: Path, case: str) -> Rounds:
    """By round and arm: those rounds that are complete."""
    found: Rounds = {}
    for path in sorted((out / "runs" / case).glob("round-*.json")):
        _, number, rest = path.stem.split("-", 2)
        arm = rest.removeprefix("a-").removeprefix("b-")
        found.setdefault(int(number), {}).setdefault(arm, []).append(json.loads(path.read_text()))
    wanted = {*CASES[case].arms, *(("peak",) if getattr(CASES[case], "peak", False) else ())}
    halves = 2 if isinstance(CASES[case], Sampling) else 1
    return {
        number: arms
        for number, arms in found.items()
        if set(arms) == wanted and all(len(one) == halves for one in arms.values())
    }


def sampling(found: Rounds, plan: Sampling, out: Path) -> list[str]:
    """Tokens a second of every arm, ratios, and what was reached of the matrix peak."""
    tokens = sum(plan.lengths)
    mean = tokens / len(plan.lengths)
    lines = [
        f"{len(plan.lengths)} responses of {mean:.1f} tokens on average, {plan.batch} rows at a time; tokens "
        "that somebody waits for are counted.",
        "",
        *memory_head("tokens/s: median of rounds, min - max"),
    ]
    rates = {
        arm: [
            tokens / fmean(call["seconds"] for half in arms[arm] for call in half["calls"])
            for arms in found.values()
        ]
        for arm in plan.arms
    }
    for arm, every in rates.items():
        lines.append(memory_row(arm, f"{median(every):.0f}, {min(every):.0f} - {max(every):.0f}", found))
    lines += ratios(found, plan.arms, {arm: [1 / one for one in every] for arm, every in rates.items()})
    if plan.peak:
        lines += ["", share(found, plan, shape_of(out / "models" / "policy"))]
    return lines


def training(found: Rounds, plan: Training) -> list[str]:
    """Seconds an episode of every arm, ratios, phases."""
    length = fmean(plan.lengths)
    lines = [
        f"Responses of {length:.1f} tokens on average.",
        "",
        *memory_head("seconds an episode: median, min - max"),
    ]
    times = {
        arm: [
            fmean(one["seconds"] for one in arms[arm][0]["updates"][1:]) / EPISODES for arms in found.values()
        ]
        for arm in plan.arms
    }
    for arm, every in times.items():
        lines.append(memory_row(arm, f"{median(every):.2f}, {min(every):.2f} - {max(every):.2f}", found))
    lines += ratios(found, plan.arms, times)
    names = [name for name in next(iter(found.values()))["trimtab"][0]["updates"][0] if name != "seconds"]
    lines += ["", "| seconds an update | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for arm in (one for one in plan.arms if one != "trl"):
        every = [update for arms in found.values() for update in arms[arm][0]["updates"][1:]]
        lines.append(
            f"| {arm} | " + " | ".join(f"{median(one[name] for one in every):.2f}" for name in names) + " |"
        )
    return lines


def memory_head(what: str) -> list[str]:
    """Of the table that `memory_row` fills."""
    return [f"| arm | {what} | peak MB | of which imports |", "| --- | ---: | ---: | ---: |"]


def memory_row(arm: str, what: str, found: Rounds) -> str:
    """The largest process of an arm."""
    every = [half for arms in found.values() for half in arms[arm]]
    peak, imports = (max(half[name] for half in every) / 1e6 for name in ("peak_bytes", "baseline_bytes"))
    return f"| {arm} | {what} | {peak:.0f} | {imports:.0f} |"


def ratios(found: Rounds, arms: tuple[str, ...], seconds: dict[str, list[float]]) -> list[str]:
    """How many times as fast as each other arm the first is, round by round."""
    marks = [" *" if disturbed(found, arms_of) else "" for arms_of in found.values()]
    heads = [f"round {number}{mark}" for number, mark in zip(found, marks, strict=True)]
    lines = ["", f"| {arms[0]} over | " + " | ".join(heads) + " | median | min | max |"]
    lines.append("| --- |" + " ---: |" * (len(heads) + 3))
    for other in arms[1:]:
        every = [theirs / ours for ours, theirs in zip(seconds[arms[0]], seconds[other], strict=True)]
        cells = [
            *(f"{one:.2f}" for one in every),
            f"**{median(every):.2f}**",
            f"{min(every):.2f}",
            f"{max(every):.2f}",
        ]
        lines.append(f"| {other} | " + " | ".join(cells) + " |")
    if any(marks):
        lines += [
            "",
            f"\\* Disturbed: others used over {NOISY:.0%} of the CPUs, or an arm had under "
            f"{STARVED:.0%} of its usual share.",
        ]
    return lines


def disturbed(found: Rounds, arms: dict[str, list[Result]]) -> bool:
    """Whether something else ran beside a process of this round."""
    for arm, halves in arms.items():
        usual = median(half["own"] for one in found.values() for half in one[arm])
        if any(half["others"] > NOISY or half["own"] < STARVED * usual for half in halves):
            return True
    return False


def share(found: Rounds, plan: Sampling, shape: Shape) -> str:
    """What the needed operations make of the matrix peak, with the prompts and without them."""
    peak = max(rate for arms in found.values() for half in arms["peak"] for rate in half["gflops"].values())
    decoded = sum(length - 1 for length in plan.lengths)
    prompts = len(plan.lengths) * PROMPT
    per_key = 4 * shape.layers * shape.heads * shape.head_width
    steps = sum(per_key * (PROMPT + step) for length in plan.lengths for step in range(1, length))
    decode = 2 * (shape.body_parameters + shape.width * shape.vocabulary) * decoded + steps
    read = 2 * shape.body_parameters * prompts + 2 * shape.width * shape.vocabulary * len(plan.lengths)
    calls = [call for arms in found.values() for half in arms["trimtab"] for call in half["calls"]]
    alone = median(decode / call["decode"] for call in calls) / peak / 1e9
    whole = median((decode + read) / call["seconds"] for call in calls) / peak / 1e9
    return (
        f"Matrix peak, bf16: {peak:.0f} GFLOP/s; trimtab reaches {alone:.0%} of it while it decodes, "
        f"{whole:.0%} from call to end."
    )

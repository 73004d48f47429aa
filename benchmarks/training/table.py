"""What has been measured so far, as Markdown. Reads results, runs nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cases import CASES, Row, describe, logical_tokens, needed_tokens, responses_of
from flops import Shape, minimum_flops, shape_of
from gate import Verdict, bfloat16_verdict, float32_verdict
from plan import ARMS, SHIPPED, Plan, Units

NOISY = 0.1
"""Share of the CPU that others may use before a round is marked."""
STARVED = 0.7
"""Part of its usual share of the CPU that an arm must have had, or its round is marked: a process that is
stopped or throttled stands still without others being seen to compute."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Half:
    """One process of an arm: seconds of its timed steps, and what the reference would add to them."""

    result: Result

    @property
    def timed(self) -> list[Result]:
        """The steps behind the warm-up."""
        return list(self.result["steps"][self.result["warm_up"] :])

    @property
    def seconds(self) -> float:
        """Of the timed steps."""
        return float(sum(step["seconds"] for step in self.timed))

    @property
    def charged(self) -> float:
        """The same, and the reference pass over these steps' pairs, as in the first epoch."""
        return self.seconds + float(self.result["reference_seconds"])


class Found:
    """The results of one case."""

    def __init__(self, out: Path, case: str, plan: Plan) -> None:
        self.units = Units(out, case, plan)
        self.out, self.case, self.plan = out, case, plan
        self.loss = CASES[case].loss
        self.batches: list[list[Row]] = json.loads((out / "cases" / f"{case}.json").read_text())
        self.shape = shape_of(out / "models" / "reference")

    def read(self, name: str) -> Result | None:
        """A result, if it is there."""
        path = self.out / "runs" / self.case / f"{name}.json"
        found: Result | None = json.loads(path.read_text()) if path.exists() else None
        return found

    @property
    def timed_rows(self) -> list[Row]:
        """What the timed steps of a process train on."""
        return [row for batch in self.batches[1 : 1 + self.plan.steps] for row in batch]

    def best_micro_batch(self) -> int | None:
        """The fastest of the sweep, once it is complete."""
        speeds = {}
        for size in self.plan.micro_batches():
            result = self.read(f"sweep-{size}")
            if result is None:
                return None
            speeds[size] = Half(result).seconds
        return min(speeds, key=lambda size: speeds[size])

    def verdicts(self) -> list[Verdict] | None:
        """Of the gate, once everything of it has run."""
        names = [f"gate-{arm}-{kind}" for arm in ("trimtab", "trl-best") for kind in ("float32", "bfloat16")]
        results = [self.read(name) for name in names]
        others = {arm: self.read(f"gate-{arm}-float32") for arm in self.plan.arms if arm in SHIPPED}
        if None in results or None in others.values():
            return None
        ours, ours_short, theirs, theirs_short = (result["steps"] for result in results if result)
        found = [float32_verdict("trl-best", ours, theirs)]
        found += [float32_verdict(arm, ours, result["steps"]) for arm, result in others.items() if result]
        return [*found, bfloat16_verdict(ours_short, theirs_short, theirs)]

    def rounds(self) -> dict[int, dict[str, list[Half]]]:
        """Both halves of each arm, for every round in which something has been measured."""
        found: dict[int, dict[str, list[Half]]] = {}
        for path in (self.out / "runs" / self.case).glob("round-*.json"):
            _, number, _, arm = path.stem.split("-", 3)
            if arm != "peak":
                found.setdefault(int(number), {}).setdefault(arm, []).append(
                    Half(json.loads(path.read_text()))
                )
        return dict(sorted(found.items()))

    def peak(self) -> float:
        """GFLOP/s: the best product of all halves."""
        paths = (self.out / "runs" / self.case).glob("round-*-peak.json")
        return max((max(json.loads(path.read_text())["gflops"].values()) for path in paths), default=0.0)

    def needed_flops(self) -> int:
        """Of the timed steps of one process."""
        return sum(needed(self.shape, self.loss, row) for row in self.timed_rows)


def needed(shape: Shape, loss: str, row: Row) -> int:
    """Operations that a row cannot do without."""
    lengths = [len(ids) for ids in responses_of(loss, row)]
    outputs, scored = (1, len(lengths)) if loss == "reward" else (shape.vocabulary, sum(lengths))
    return minimum_flops(shape, len(row["prompt_ids"]), lengths, outputs=outputs, scored=scored)


def report(out: Path, plan: Plan, machine: dict[str, str]) -> str:
    """All cases that have anything."""
    lines = ["# Training beside TRL", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += [
        f"- {plan.pairs_a_step} pairs an optimizer step; {plan.steps} timed steps a process after one that "
        "is not, two processes of every arm a round, in the order ABCCBA; executed tokens of TRL as shipped "
        "are those of policy and reference; the share of the peak counts the needed operations of the step "
        "without any reference pass",
        "",
    ]
    for case in CASES:
        if (out / "cases" / f"{case}.json").exists() and (out / "runs" / case).exists():
            lines += section(Found(out, case, plan))
    return "\n".join(lines)


def section(found: Found) -> list[str]:
    """One case: what it is, the gate, the arms, the ratios."""
    best = found.best_micro_batch()
    verdicts = found.verdicts()
    failed = verdicts is not None and not all(one.passed for one in verdicts)
    lines = [f"## {found.case}{': the gate FAILED' if failed else ''}", ""]
    lines += [f"{describe(found.loss, found.batches[1 : 1 + found.plan.steps])}.", ""]
    lines += (
        ["TRL's sweep, seconds a step: " + _sweep(found) + "."] if best else ["The sweep is not complete."]
    )
    rounds = found.rounds()
    if verdicts is None:
        lines += ["", "The gate is not complete."]
    else:
        lines += ["", *(f"- {'passes' if one.passed else 'FAILS'}: {one.text}" for one in verdicts)]
    if failed:
        lines += ["", "The gate failed, so this case is not timed."]
    if rounds:
        lines += ["", *_arms(found, rounds), "", *_ratios(found, rounds), "", *_closing(found, rounds)]
    return [*lines, ""]


def _sweep(found: Found) -> str:
    cells = []
    for size in found.plan.micro_batches():
        half = Half(found.read(f"sweep-{size}") or {})
        cells.append(f"{size} a micro-batch {half.seconds / len(half.timed):.2f}")
    return ", ".join(cells) + f"; trl-best is at {found.best_micro_batch()}"


def _arms(found: Found, rounds: dict[int, dict[str, list[Half]]]) -> list[str]:
    logical = sum(logical_tokens(found.loss, row) for row in found.timed_rows)
    needed_count = sum(needed_tokens(found.loss, row) for row in found.timed_rows)
    dpo = found.loss == "dpo"
    lines = [
        "| arm | logical tokens/s | with the reference pass | seconds a step: all, from - to "
        "| peak MB above imports | imports MB | executed body tokens a step | of needed | padding "
        "| share of matrix peak |",
        "| --- |" + " ---: |" * 9,
    ]
    for arm in (arm for arm in ARMS if any(arm in one for one in rounds.values())):
        halves = [half for one in rounds.values() for half in one.get(arm, [])]
        plain, charged = (_by_round(rounds, arm, kind) for kind in ("seconds", "charged"))
        steps = halves[0].timed
        executed = sum(step["executed"] for step in steps)
        padded = sum(step["padding"] * step["executed"] for step in steps) / executed
        above = _above(rounds, arm)
        imports = median(half.result["baseline_bytes"] for half in halves)
        speed = median(logical / seconds for seconds in plain.values())
        with_reference = f"{median(logical / seconds for seconds in charged.values()):.1f}" if dpo else ""
        share = found.needed_flops() / median(plain.values()) / 1e9 / found.peak() if found.peak() else 0.0
        every = [step["seconds"] for half in halves for step in half.timed]
        lines.append(
            f"| {arm} | {speed:.1f} | {with_reference} | {min(every):.2f} - {max(every):.2f} "
            f"| {above / 1e6:.0f} | {imports / 1e6:.0f} | {executed / len(steps):.0f} "
            f"| {executed / needed_count:.2f} | {100 * padded:.1f} % | {100 * share:.1f} % |"
        )
    return lines


def _by_round(rounds: dict[int, dict[str, list[Half]]], arm: str, kind: str) -> dict[int, float]:
    """Seconds of the timed steps of a process: the mean over the halves, for the rounds that have any."""
    return {
        number: sum(getattr(half, kind) for half in one[arm]) / len(one[arm])
        for number, one in rounds.items()
        if arm in one
    }


def _ratios(found: Found, rounds: dict[int, dict[str, list[Half]]]) -> list[str]:
    """How many times as fast trimtab is, in each round."""
    noisy = _noisy(rounds)
    heads = [f"round {number}{'*' if number in noisy else ''}" for number in rounds]
    lines = [
        "| trimtab over | " + " | ".join(heads) + " | median | min | max | peak memory |",
        "| --- |" + " ---: |" * (len(heads) + 4),
    ]
    present = [arm for arm in ARMS if arm != "trimtab" and any(arm in one for one in rounds.values())]
    for arm in present:
        # TRL as shipped computes its reference within each step; only its best has it cached.
        kinds = {
            "both references cached": ("seconds", "seconds"),
            "both reference passes charged": ("charged",) * 2,
        }
        if arm in SHIPPED:
            kinds = {
                "our reference pass charged": ("charged", "seconds"),
                "ours cached": ("seconds", "seconds"),
            }
        if found.loss != "dpo":
            kinds = {"": ("seconds", "seconds")}
        for name, (our_kind, their_kind) in kinds.items():
            ours, theirs = _by_round(rounds, "trimtab", our_kind), _by_round(rounds, arm, their_kind)
            ratios = {
                number: theirs[number] / ours[number]
                for number in rounds
                if number in ours and number in theirs
            }
            if ratios:
                lines.append(_ratio_line(f"{arm}{', ' if name else ''}{name}", ratios, rounds, arm))
    return lines


def _ratio_line(
    name: str, ratios: dict[int, float], rounds: dict[int, dict[str, list[Half]]], arm: str
) -> str:
    cells = [f"{ratios[number]:.2f}" if number in ratios else "" for number in rounds]
    values = list(ratios.values())
    summary = [f"**{median(values):.2f}**", f"{min(values):.2f}", f"{max(values):.2f}"]
    memory = 100 * _above(rounds, "trimtab") / _above(rounds, arm)
    return f"| {name} | " + " | ".join([*cells, *summary, f"{memory:.0f} %"]) + " |"


def _above(rounds: dict[int, dict[str, list[Half]]], arm: str) -> float:
    halves = [half.result for one in rounds.values() for half in one.get(arm, [])]
    return float(median(half["peak_bytes"] - half["baseline_bytes"] for half in halves))


def _noisy(rounds: dict[int, dict[str, list[Half]]]) -> dict[int, str]:
    """Rounds in which an arm was disturbed, and how."""
    usual = {arm: _share(rounds, arm) for arm in ARMS if any(arm in one for one in rounds.values())}
    found = {}
    for number, one in rounds.items():
        halves = [(arm, half.result) for arm, both in one.items() for half in both]
        others = max(result["others"] for _, result in halves)
        starved = [arm for arm, result in halves if result["own"] < STARVED * usual[arm]]
        reasons = [f"others used {100 * others:.0f} %"] if others > NOISY else []
        reasons += [f"{arm} was kept waiting" for arm in dict.fromkeys(starved)]
        if reasons:
            found[number] = ", ".join(reasons)
    return found


def _share(rounds: dict[int, dict[str, list[Half]]], arm: str) -> float:
    """Of the CPUs' time that the arm usually had."""
    return float(median(half.result["own"] for one in rounds.values() for half in one.get(arm, [])))


def _closing(found: Found, rounds: dict[int, dict[str, list[Half]]]) -> list[str]:
    noisy = _noisy(rounds)
    lines = [f"Matrix peak, bf16, best of all halves: {found.peak():.0f} GFLOP/s."]
    if noisy:
        marks = "; ".join(f"round {number}: {reasons}" for number, reasons in noisy.items())
        lines.append(
            f"\\* Disturbed (others used over {100 * NOISY:.0f} % of the CPU, or an arm had under "
            f"{100 * STARVED:.0f} % of its usual share): {marks}."
        )
    first = next(iter(rounds.values()))
    for arm in (arm for arm in ("trl-best", *SHIPPED) if arm in first):
        told = ", ".join(f"{name} {value}" for name, value in first[arm][0].result["facts"].items())
        lines.append(f"{arm}: {told}.")
    return ["\n\n".join(lines)]

"""What is to be run: arms, and units of work whose results are files, so that nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import CASES

RATE = 1e-5
SHIPPED = {"trl-1": 1, "trl-4": 4, "trl-8": 8}
"""TRL as shipped, by pairs a micro-batch."""
ARMS = ("trimtab", "trl-best", *SHIPPED)
SWEEP = (1, 2, 4, 8, 16)
"""Micro-batches that TRL's best is looked for among."""


@dataclass(frozen=True)
class Plan:
    """How much is run; the same in all calls on a folder."""

    pairs_a_step: int
    steps: int
    """Timed ones of a process; one more goes before them and is not timed."""
    gate_steps: int
    """Of trimtab and of TRL at its best, in float32 and in bfloat16."""
    short_gate_steps: int
    """Of the other arms, in float32."""
    arms: tuple[str, ...]
    """An arm that came later would be measured at another time than the round it belongs to."""

    @property
    def batches(self) -> int:
        """That a case needs."""
        return max(self.steps + 1, self.gate_steps)

    def micro_batches(self) -> list[int]:
        """Of the sweep: those that divide a step."""
        return [size for size in SWEEP if self.pairs_a_step % size == 0]


@dataclass(frozen=True)
class Unit:
    """One process."""

    case: str
    name: str
    """Of its result, within the case."""
    script: str
    steps: int
    """Warm-up included: the estimate of the time left goes by it."""
    spec: dict[str, Any]

    def path(self, out: Path) -> Path:
        """Where its result is."""
        return out / "runs" / self.case / f"{self.name}.json"


class Units:
    """The processes of a case."""

    def __init__(self, out: Path, case: str, plan: Plan) -> None:
        self.out, self.case, self.plan = out, case, plan
        self.loss = CASES[case].loss

    def sweep(self) -> list[Unit]:
        """TRL without checkpointing and with a cached reference, at each micro-batch."""
        return [
            self._unit(f"sweep-{size}", "trl-best", size, steps=min(self.plan.steps, 2), warm_up=1)
            for size in self.plan.micro_batches()
        ]

    def gate(self, best: int) -> list[Unit]:
        """Float32 for every arm, bfloat16 for trimtab and TRL at its best; from the moved policy."""
        long = [
            self._unit(f"gate-{arm}-{precision}", arm, best, self.plan.gate_steps, 0, precision, moved=True)
            for arm in ("trimtab", "trl-best")
            for precision in ("float32", "bfloat16")
        ]
        return long + [
            self._unit(
                f"gate-{arm}-float32",
                arm,
                SHIPPED[arm],
                min(self.plan.short_gate_steps, self.plan.gate_steps),
                0,
                "float32",
                moved=True,
            )
            for arm in self.plan.arms
            if arm in SHIPPED
        ]

    def rounds(self, best: int, rounds: int) -> Iterator[Unit]:
        """ABC, then CBA, in every round. The matrix peak is one of the letters."""
        letters = ["peak", *self.plan.arms]
        for number in range(1, rounds + 1):
            for half, order in (("a", letters), ("b", letters[::-1])):
                for arm in order:
                    yield self.timed(number, half, arm, best)

    def timed(self, number: int, half: str, arm: str, best: int) -> Unit:
        """An arm in one half of a round."""
        name = f"round-{number}-{half}-{arm}"
        if arm == "peak":
            spec = {"model": self._model("reference"), "device": "cpu"}
            return Unit(self.case, name, "matrix_peak.py", 1, spec)
        return self._unit(name, arm, SHIPPED.get(arm, best), self.plan.steps, warm_up=1)

    def _unit(
        self,
        name: str,
        arm: str,
        micro_batch: int,
        steps: int,
        warm_up: int,
        precision: str = "bfloat16",
        *,
        moved: bool = False,
    ) -> Unit:
        begin = "scorer" if self.loss == "reward" else "policy" if moved else "reference"
        spec: dict[str, Any] = {
            "loss": self.loss,
            "model": self._model(begin),
            "reference": self._model("reference"),
            "precision": precision,
            "batches": str(self.out / "cases" / f"{self.case}.json"),
            "steps": steps,
            "warm_up": warm_up,
            "rate": RATE,
            "device": "cpu",
            "row_tokens": None,
        }
        if arm == "trimtab":
            return Unit(self.case, name, "our_arm.py", steps + warm_up, spec)
        spec |= {
            "micro_batch": micro_batch,
            "checkpointing": arm in SHIPPED,
            "cached_reference": arm not in SHIPPED,
            "scratch": str(self.out / "trl"),
        }
        return Unit(self.case, name, "their_arm.py", steps + warm_up, spec)

    def _model(self, name: str) -> str:
        return str(self.out / "models" / name)

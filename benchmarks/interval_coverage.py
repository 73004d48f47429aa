"""How often the 95 % intervals hold the truth, where the truth is known.

Each cell is one line of OUT/coverage.jsonl, written when it is done; what is there already is not run again.
The functions measured are those that reports use, with fewer bootstrap rounds (see ROUNDS), which widens the
scatter of an interval's ends and nothing else.

    python benchmarks/interval_coverage.py --out ../coverage        # about 25 minutes on one core
    python benchmarks/interval_coverage.py --out ../coverage --table
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from trimtab.statistics.length_control import fit_intervals
from trimtab.statistics.ranking import Judged, rank
from trimtab.statistics.rates import FEW_PROMPTS, rate_interval, score_interval, too_few

PROMPTS = (200, 100, 50, 500)
RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
TIES = (0.0, 0.1, 0.3)
"""Wanted shares of ties. A win rate of 10 % leaves room for 20 % at most, so 16 % are taken there."""
NEARLY_ALL_TIES = (0.9, 0.95)
"""Shares of ties that leave the win rate near 50 %: a cell's rate is that of wins among wins and losses."""
LENGTHS = ("normal", "lognormal")
LENGTH_EFFECT = 1.0
"""phi: at its strongest, being longer moves a rate of 50 % to 73 %."""
PLAYERS = 4
ROUNDS = {"win rate": 1000, "length-controlled": 200, "strengths": 200}
TARGET = (93.0, 97.0)
BOUND_FROM = 200
"""Prompts from which the target binds."""

Hits = dict[str, float]
"""Share of simulations, by what was counted."""


@dataclass(frozen=True)
class Cell:
    """One truth and one number of prompts."""

    what: str
    variant: str
    prompts: int
    rate: float

    @property
    def seed(self) -> list[int]:
        """The same for a cell whatever ran before it."""
        return [self.prompts, round(100 * self.rate), *self.what.encode(), *self.variant.encode()]


def cells() -> Iterator[Cell]:
    """Everything that is run, 200 prompts first: the smallest number for which the target binds."""
    for prompts in PROMPTS:
        for rate in RATES:
            for ties in (*TIES, *NEARLY_ALL_TIES):
                yield Cell("win rate", f"{100 * ties:.0f} % ties", prompts, rate)
            for lengths in LENGTHS:
                yield Cell("length-controlled", f"{lengths} lengths", prompts, rate)
            yield Cell("strengths", "4 players", prompts, rate)


def win_rate(cell: Cell, generator: np.random.Generator, simulation: int) -> Hits:
    """Wins, ties and losses whose mean is the truth."""
    shares = _shares(float(cell.variant.split()[0]) / 100, cell.rate)
    truth = shares[0] + shares[1] / 2
    outcomes = generator.choice([1.0, 0.5, 0.0], cell.prompts, p=shares)
    found = rate_interval(outcomes, seed=simulation, rounds=ROUNDS[cell.what])
    assert found.bootstrap is not None
    return {
        "held": found.quoted.contains(truth),
        "bootstrap": found.bootstrap.contains(truth),
        "Wilson": found.score.contains(truth),
        "cautioned": bool(found.caution),
        "width": found.quoted.high - found.quoted.low,
    }


def _shares(ties: float, rate: float) -> list[float]:
    """Of wins, ties and losses."""
    if ties in NEARLY_ALL_TIES:
        return [(1 - ties) * rate, ties, (1 - ties) * (1 - rate)]
    ties = min(ties, 1.6 * min(rate, 1 - rate))
    return [rate - ties / 2, ties, 1 - rate - ties / 2]


def controlled_rate(cell: Cell, generator: np.random.Generator, simulation: int) -> Hits:
    """The model of `length_control` with the true scale; at equal length left wins at the cell's rate."""
    left, right, scale = _lengths(cell.variant.split()[0], cell.prompts, generator)
    chances = expit(logit(cell.rate) + LENGTH_EFFECT * np.tanh((left - right) / scale))
    outcomes = (generator.random(cell.prompts) < chances).astype(np.float64)
    controlled, effect = fit_intervals(outcomes, left - right, seed=simulation, rounds=ROUNDS[cell.what])
    return {
        "held": controlled.contains(cell.rate),
        "raw rate's interval": score_interval(outcomes).contains(cell.rate),
        "phi": effect.contains(LENGTH_EFFECT),
        "cautioned": cell.prompts < FEW_PROMPTS or bool(too_few(outcomes)),
        "width": controlled.high - controlled.low,
    }


def _lengths(kind: str, prompts: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Both sides' lengths, and the root mean square of their difference over all prompts there could be."""
    if kind == "normal":
        left, right = np.abs(generator.normal(600.0, 100.0, (2, prompts)))
        return left, right, 100.0 * 2**0.5
    # Left's answers are 65 % longer, and either side's longest many times its shortest.
    spread, longer = 0.7, np.exp(0.5)
    left, right = np.exp(generator.normal(5.0, spread, (2, prompts)))
    mean, variance = np.exp(5 + spread**2 / 2), np.exp(10 + spread**2) * (np.exp(spread**2) - 1)
    scale = (variance * (1 + longer**2) + (mean * (longer - 1)) ** 2) ** 0.5
    return longer * left, right, float(scale)


def strengths(cell: Cell, generator: np.random.Generator, simulation: int) -> Hits:
    """Every prompt gives each player a Gumbel utility, and all pairs are judged by them.

    Two Gumbels differ by a logistic, so that each pair is exactly Bradley-Terry, while the judgments of a
    prompt are never at odds: they are as dependent as judgments can be. The first player beats each of the
    others at the cell's rate.
    """
    truth = np.array([logit(cell.rate), 0.0, 0.0, 0.0])
    truth -= truth.mean()
    utilities = truth + generator.gumbel(size=(cell.prompts, PLAYERS))
    judgments = [
        Judged(prompt, left, right, float(row[left] > row[right]))
        for prompt, row in enumerate(utilities)
        for left, right in zip(*np.triu_indices(PLAYERS, 1), strict=True)
    ]
    found = rank([*"ABCD"], judgments, seed=simulation, rounds=ROUNDS[cell.what])
    held = [interval.contains(value) for interval, value in zip(found.strengths, truth, strict=True)]
    return {
        "held": float(np.mean(held)),
        **{f"player {name}": hit for name, hit in zip("ABCD", held, strict=True)},
        "cautioned": bool(found.caution),
        "width": float(np.mean([interval.high - interval.low for interval in found.strengths])),
    }


SIMULATE: dict[str, Callable[[Cell, np.random.Generator, int], Hits]] = {
    "win rate": win_rate,
    "length-controlled": controlled_rate,
    "strengths": strengths,
}


def run_all(out: Path, simulations: int, only: str) -> None:
    """Run what is not there yet, of cells whose variant holds the text."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "coverage.jsonl"
    done = {key(row) for row in read(path)}
    waiting = [
        cell
        for cell in cells()
        if only in cell.variant
        and (cell.what, cell.variant, cell.prompts, cell.rate, simulations) not in done
    ]
    for index, cell in enumerate(waiting):
        began = time.process_time()
        generator = np.random.default_rng(cell.seed)
        rows = [SIMULATE[cell.what](cell, generator, simulation) for simulation in range(simulations)]
        shares = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
        line = {**vars(cell), "simulations": simulations, "rounds": ROUNDS[cell.what], **shares}
        line["seconds"] = round(time.process_time() - began, 1)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{index + 1}/{len(waiting)} {line}", flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two lines the same cell."""
    return row["what"], row["variant"], row["prompts"], row["rate"], row["simulations"]


def table(rows: list[dict[str, Any]]) -> str:
    """Coverage in percent, as Markdown; `!` where the target binds and is missed, `c` where the function
    itself cautions in most simulations."""
    lines = [
        "| interval | truth | prompts | " + " | ".join(f"rate {rate:g}" for rate in RATES) + " |",
        "|---|---|--:|" + "--:|" * len(RATES),
    ]
    found = {(row["what"], row["variant"], row["prompts"], row["rate"]): row for row in rows}
    for what, variant in dict.fromkeys((cell.what, cell.variant) for cell in cells()):
        for prompts in sorted(PROMPTS):
            texts = [_text(found.get((what, variant, prompts, rate))) for rate in RATES]
            lines.append(f"| {what} | {variant} | {prompts} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _text(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    percent = 100 * row["held"]
    missed = row["prompts"] >= BOUND_FROM and not TARGET[0] <= percent <= TARGET[1]
    return f"{percent:.1f}{'!' if missed else ''}{' c' if row['cautioned'] > 0.5 else ''}"


def main() -> None:
    """Parse, run, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of coverage.jsonl")
    parser.add_argument("--simulations", type=int, default=2000, help="simulations a cell")
    parser.add_argument(
        "--only", default="", help="cells whose variant holds this text, such as `90 %% ties`"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the table of what is there and run nothing"
    )
    arguments = parser.parse_args()
    if not arguments.table:
        run_all(arguments.out, arguments.simulations, arguments.only)
    print(table(read(arguments.out / "coverage.jsonl")))


if __name__ == "__main__":
    main()

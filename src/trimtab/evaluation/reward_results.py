"""A reward model's card as tables of text, as files and as a page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from trimtab.evaluation import disagreement
from trimtab.evaluation.reward import RewardEvaluation
from trimtab.evaluation.rewardbench import Scorecard
from trimtab.pages import page
from trimtab.pages.pictures import reliability_picture
from trimtab.runs.files import new_folder
from trimtab.statistics.calibration import FEW_OUTCOMES, FEW_PAIRS, Calibration
from trimtab.statistics.intervals import PERCENT, Interval, number

Rows = list[tuple[str, ...]]


def section_rows(card: Scorecard) -> Rows:
    """Sections and overall figures, the head first."""
    rows: Rows = [("section", "score")]
    rows += [(section.name, section.score.percent()) for section in card.sections]
    overall = "overall" if card.benchmark != "own" else "all rows"
    rows.append((overall, _or_missing(card.overall)))
    if card.overall_with_prior is not None:
        rows.append(("overall with prior sets", card.overall_with_prior.percent()))
    return rows


def subset_rows(card: Scorecard) -> Rows:
    """Every subset with its rows and ties, the head first."""
    rows: Rows = [("subset", "score", "rows", "ties")]
    return rows + [
        (subset.name, subset.score.percent(), f"{subset.rows:,}", str(subset.tied)) for subset in card.subsets
    ]


def slice_rows(card: Scorecard) -> Rows:
    """Accuracy by who is longer, by length and by position, the head first."""
    rows: Rows = [("rows where", "accuracy", "rows", "ties")]
    return rows + [
        (part.name, part.accuracy.percent(), f"{part.rows:,}", str(part.tied))
        for part in (*card.lengths, *card.sizes, *card.positions)
    ]


def headline(found: RewardEvaluation) -> str:
    """The benchmark's own figure in a sentence."""
    card = found.card
    name = "These rows" if card.benchmark == "own" else card.benchmark
    if card.overall is None:
        return f"{name}: {card.accuracy.percent()} of {card.accuracy.n:,} rows are right."
    return f"{name}: {card.overall.percent()} overall, on {len(found.results):,} rows."


def sentences(found: RewardEvaluation) -> tuple[str, ...]:
    """What should be known beside the figure."""
    card = found.card
    said = []
    if card.incomplete:
        subsets = "1 subset has" if len(card.incomplete) == 1 else f"{len(card.incomplete)} subsets have"
        some = ", ".join(card.incomplete[:4]) + (" …" if len(card.incomplete) > 4 else "")
        said.append(
            f"These rows are not the whole benchmark: {subsets} another number of rows than was published "
            f"({some})."
        )
    if any(subset.ties is not None and subset.score.estimate > 1 for subset in card.subsets):
        said.append(
            f"The Ties score of RewardBench 2 goes up to 101{PERCENT}: a hundredth for wide margins comes on "
            "top of its accuracies."
        )
    if card.tied:
        said.append(f"On {card.tied:,} rows a correct and an incorrect response share the highest score.")
    if found.left_out:
        where, reason = found.left_out[0]
        rows = "1 row is" if len(found.left_out) == 1 else f"{len(found.left_out):,} rows are"
        said.append(f"{rows} left out, such as {where}: {reason}.")
    if found.disagreement is not None:
        unit = "nats" if found.calibration is not None else "deviations of their scores"
        said += disagreement.sentences(found.disagreement, unit)
    if found.temperature is not None:
        said.append(f"Divided by {number(found.temperature, 2)}, its scores would fit these pairs best.")
    return tuple(said)


def calibration_sentence(found: Calibration) -> str:
    """The expected calibration error in words; without its interval where that means nothing."""
    error = f"Expected calibration error {found.error.percent()}"
    if found.miscalibrated is None:
        error = f"Expected calibration error {number(100 * found.raw_error, 1)}{PERCENT}, noise included"
        verdict = (
            f"which tells nothing yet: that takes {FEW_PAIRS} pairs, and {FEW_OUTCOMES} on which the model "
            "is wrong or says that it may be"
        )
    elif found.miscalibrated:
        verdict = "so its probabilities are not to be believed"
    else:
        verdict = "which shows no miscalibration"
    return f"{error}, {verdict}. The line is a perfect forecast."


def to_json(found: RewardEvaluation, source: str) -> str:
    """Everything but the rows."""
    whole = {
        "data": source,
        "judge": found.judge,
        "headline": headline(found),
        **asdict(found.card),
        "calibration": asdict(found.calibration) if found.calibration else None,
        "temperature": found.temperature,
        "disagreement": asdict(found.disagreement) if found.disagreement else None,
        "left_out": found.left_out,
        "seconds": round(found.seconds, 1),
    }
    return json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=1)


def write(folder: Path, found: RewardEvaluation, source: str) -> None:
    """report.html, card.json, and scores.jsonl with every row; the folder appears whole or not at all."""
    data = to_json(found, source)
    with new_folder(folder) as temporary:
        (temporary / "card.json").write_text(data, encoding="utf-8", errors="replace")
        lines = [
            {
                "id": result.row.id,
                "subset": result.row.subset,
                "chosen": result.chosen,
                "rejected": result.rejected,
                "credit": result.credit,
            }
            for result in found.results
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (temporary / "scores.jsonl").write_text(text, encoding="utf-8", errors="replace")
        nonce = hashlib.sha256(data.encode(errors="replace")).hexdigest()
        html = _page(found, source, nonce)
        (temporary / "report.html").write_text(html, encoding="utf-8", errors="replace")


def _page(found: RewardEvaluation, source: str, nonce: str) -> str:
    picture = None
    if found.calibration is not None:
        picture = reliability_picture(
            found.calibration, key="calibration", title="Right, against how sure it is", name=found.judge
        )
    return page.render(
        "evaluation/reward.html",
        nonce=nonce,
        pictures=[picture] if picture else [],
        found=found,
        source=source,
        headline=headline(found),
        sentences=sentences(found),
        sections=section_rows(found.card),
        subsets=subset_rows(found.card),
        slices=slice_rows(found.card),
        picture=picture,
        calibration=calibration_sentence(found.calibration) if found.calibration else "",
    )


def _or_missing(score: Interval | None) -> str:
    return "a section is missing" if score is None else score.percent()

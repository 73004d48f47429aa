"""Evaluations against demonstrations as tables of text and as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trimtab.evaluation.closeness import MEANING, ScoreChange, ScoreSummary
from trimtab.evaluation.demonstrations import Loss, ModelScores
from trimtab.evaluation.settings import DemonstrationSettings
from trimtab.runs.files import new_folder
from trimtab.statistics.intervals import number

Rows = list[tuple[str, ...]]


def closeness_rows(models: Sequence[ModelScores]) -> Rows:
    """Each score with its meaning, and each model's mean and change with intervals; the head first.

    A score for which no example had anything to score, such as keywords that no row names, has no row.
    """
    head = ["score", "meaning", models[0].model]
    for one in models[1:]:
        head += [one.model, "change"]
    rows = [tuple(head)]
    for index, summary in enumerate(models[0].closeness):
        if not summary.scored:
            continue
        cells = [summary.name, MEANING[summary.name], _mean(summary)]
        for one in models[1:]:
            cells += [_mean(one.closeness[index]), _change(one.changes[index])]
        rows.append(tuple(cells))
    return rows


def likelihood_rows(models: Sequence[ModelScores]) -> Rows:
    """Nats per token of people's answers and of plain text, with changes; the head first."""
    rows: Rows = [("model", "people's answers", "change", "perplexity", "plain text", "change")]
    for one in models:
        answers, text = _loss(one.demonstrations), ("", "") if one.text is None else _loss(one.text)
        rows.append((one.model, *answers, number(one.demonstrations.perplexity, 2), *text))
    return rows


def text_note(settings: DemonstrationSettings, models: Sequence[ModelScores]) -> str:
    """What of the plain text was left out; empty where all of it counts."""
    left_out = models[0].passages_left_out
    if not left_out:
        return ""
    passages = "1 passage" if left_out == 1 else f"{left_out:,} passages"
    verb = "is" if left_out == 1 else "are"
    return f"{settings.text}: {passages} of one token {verb} left out: a first token is not foretold."


def write_demonstrations(
    folder: Path, settings: DemonstrationSettings, models: Sequence[ModelScores]
) -> None:
    """summary.json, and scores.jsonl with every answer; the folder appears whole or not at all."""
    with new_folder(folder) as temporary:
        (temporary / "summary.json").write_text(demonstrations_json(settings, models), encoding="utf-8")
        lines = [
            {
                "model": one.model,
                "example": index,
                "answer": row.example.answer,
                "reference": row.example.reference,
                **row.scores,
            }
            for one in models
            for index, row in enumerate(one.answers)
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (temporary / "scores.jsonl").write_text(text, encoding="utf-8", errors="replace")


def demonstrations_json(settings: DemonstrationSettings, models: Sequence[ModelScores]) -> str:
    """Settings and summaries, without the answers."""
    summaries = [{name: value for name, value in asdict(one).items() if name != "answers"} for one in models]
    whole = {"settings": settings.model_dump(mode="json"), "models": summaries}
    return json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=1)


def _mean(summary: ScoreSummary) -> str:
    return "" if summary.mean is None else summary.mean.text(3)


def _change(change: ScoreChange) -> str:
    return "" if change.difference is None else change.difference.text(3)


def _loss(loss: Loss) -> tuple[str, str]:
    return loss.mean.text(3), "" if loss.change is None else loss.change.text(3)

"""An ensemble: members are plain runs, it resumes at the one that was interrupted, and judges as one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trimtab.errors import Interrupted, ModelError
from trimtab.evaluation import reward as evaluation
from trimtab.evaluation import reward_results
from trimtab.judges.ensemble import MeanReward
from trimtab.judges.judge import Answer
from trimtab.judges.named import load_judge
from trimtab.model.device import Numerics
from trimtab.model.names import resolve
from trimtab.runs.run import Run, is_done, members_of, read_facts, read_metrics
from trimtab.train.reward_measures import DevPairs

CPU = Numerics(torch.device("cpu"), None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def ensemble(
    tmp_path_factory: pytest.TempPathFactory, settings_of: Callable[..., Any], train: Callable[..., Any]
) -> Path:
    """Three members, after one epoch; interrupted in the second member's second step, and resumed."""
    folder, settings = tmp_path_factory.mktemp("ensemble") / "run", settings_of("reward", epochs=1, members=3)
    log = Run.log

    def logged(run: Run, at: int, **values: Any) -> None:
        log(run, at, **values)
        if at == 2 and run.folder.name == "2":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as pressing:
        pressing.setattr(Run, "log", logged)
        with pytest.raises(Interrupted):
            train("reward", settings, folder)
    assert is_done(folder / "members" / "1") and not is_done(folder / "members" / "2")
    assert not (folder / "members" / "3").exists() and not is_done(folder)
    first = (folder / "members" / "1" / "DONE").stat().st_mtime_ns
    train("reward", settings, folder, resume=True)
    assert (folder / "members" / "1" / "DONE").stat().st_mtime_ns == first, "what is done is passed over"
    return folder


def test_each_member_is_the_plain_run_of_its_seed(
    ensemble: Path, settings_of: Callable[..., Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    train("reward", settings_of("reward", epochs=1, seed=1), tmp_path / "alone")
    expected, found = weights(tmp_path / "alone"), weights(ensemble / "members" / "2")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    heads = [weights(member)["score.weight"] for member in members_of(ensemble)]
    assert len(heads) == 3 and not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])


def test_the_ensemble_is_measured_by_its_mean(ensemble: Path) -> None:
    margins = np.stack([DevPairs.read(member).margins for member in members_of(ensemble)])
    row = next(row for row in read_metrics(ensemble) if "dev_n" in row)
    assert row["dev_loss"] == pytest.approx(np.logaddexp(0, -margins.mean(axis=0)).mean(), rel=1e-6)
    assert row["dev_accuracy"] == (margins.mean(axis=0) > 0).mean()
    centred = margins - margins.mean(axis=0)
    assert row["dev_disagreement"] == pytest.approx(np.sqrt((centred**2).sum(axis=0) / 2).mean())
    assert row["step"] == 3 and row["dev_disagreement"] > 0


def test_what_is_written_of_it(ensemble: Path) -> None:
    facts = read_facts(ensemble)
    assert facts["data"]["train"]["examples"] == 12 and "model" in facts["parents"] and facts["seed"] == 0
    spent = sum(read_facts(member)["cost"]["wall_s"] for member in members_of(ensemble))
    assert facts["cost"]["wall_s"] >= 0.9 * spent
    assert "an ensemble of 3" in (ensemble / "README.md").read_text()
    assert not (ensemble / "checkpoints").exists() and not (ensemble / "model").exists()


def test_one_model_cannot_be_loaded_from_it(ensemble: Path) -> None:
    with pytest.raises(ModelError, match="the run is an ensemble") as caught:
        resolve(str(ensemble))
    assert caught.value.fix == f"name one of them: {ensemble / 'members' / '1'}"
    assert resolve(str(ensemble / "members" / "3")) == ensemble / "members" / "3" / "model"


def test_it_judges_by_the_mean_reward_in_nats(ensemble: Path) -> None:
    judge = load_judge((str(ensemble),), CPU)
    assert isinstance(judge, MeanReward) and judge.nats and judge.name == str(ensemble)
    answers = [Answer("dev 1 ", text) for text in ("aaa", "bcd", "x")]
    alone = [load_judge((str(member),), CPU).score(answers) for member in members_of(ensemble)]
    assert judge.score(answers) == pytest.approx(np.mean(np.array(alone, dtype=float), axis=0).tolist())
    margin = judge.margin(answers[0], answers[1])
    assert margin.tolist() == pytest.approx([float(one[0]) - float(one[1]) for one in alone])  # type: ignore[arg-type]
    assert "The 3 judges that are averaged agree" in judge.agreement([(answers[0], answers[1])])[0]


def test_an_evaluation_reports_mean_and_disagreement(
    ensemble: Path, data: dict[str, str], tmp_path: Path
) -> None:
    rows, left_out = evaluation.read_rows(data["dev"], None)
    found = evaluation.evaluate(load_judge((str(ensemble),), CPU), rows, seed=0, left_out=left_out)
    margins = np.stack([DevPairs.read(member).margins for member in members_of(ensemble)])
    assert found.disagreement is not None and found.calibration is not None
    assert found.card.accuracy.estimate == (margins.mean(axis=0) > 0).mean()
    assert [one.estimate for one in found.disagreement.members] == (margins > 0).mean(axis=1).tolist()
    assert found.disagreement.spread.estimate == pytest.approx(margins.std(axis=0, ddof=1).mean(), abs=1e-5)
    said = " ".join(reward_results.sentences(found))
    assert "nats around the mean" in said and "The members by themselves are right on" in said
    reward_results.write(tmp_path / "card", found, data["dev"])
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert card["disagreement"]["spread"]["estimate"] == found.disagreement.spread.estimate

"""Judges by the name that people give them: `runs/judge`, `python:FILE.py:FUNCTION`, `implicit:runs/dpo`."""

from __future__ import annotations

from pathlib import Path

from trimtab.config import read_yaml
from trimtab.errors import ConfigError
from trimtab.judges.ensemble import Ensemble
from trimtab.judges.function import load_function
from trimtab.judges.implicit import ImplicitReward
from trimtab.judges.judge import ScoringJudge
from trimtab.judges.reward_model import PaddedRewardModel, RewardModel
from trimtab.model.classifier import load_classifier
from trimtab.model.device import Numerics
from trimtab.model.load import load_config
from trimtab.model.policy import load_policy
from trimtab.model.scalar import load_scorer
from trimtab.model.support import is_supported
from trimtab.runs.run import is_done, read_facts

FROZEN_BYTES = 4
KINDS = ("reward", "python", "implicit")


def load_judge(names: tuple[str, ...], numerics: Numerics) -> ScoringJudge:
    """The judge of one name, or the ensemble of several.

    Each name is `KIND:WHAT`; a name without a kind is a reward model.

    Raises:
        ConfigError: no name, or one of an unknown kind.
        ModelError: a model cannot be read.
    """
    if not names:
        raise ConfigError("no judge is named", where="--by", fix="name a reward model: --by runs/judge")
    members = tuple(_one(name, numerics) for name in names)
    return members[0] if len(members) == 1 else Ensemble(members)


def _one(name: str, numerics: Numerics) -> ScoringJudge:
    kind, colon, what = name.partition(":")
    if not colon or kind not in KINDS:
        kind, what = "reward", name
    if kind == "python":
        return load_function(what)
    if kind == "implicit":
        return _implicit(what, numerics)
    return _reward_model(what, numerics)


def _reward_model(source: str, numerics: Numerics) -> ScoringJudge:
    config = load_config(source)
    if is_supported(config) and config.num_labels == 1:
        return RewardModel(load_scorer(source, numerics, bytes_per_parameter=FROZEN_BYTES))
    return PaddedRewardModel(load_classifier(source, numerics))


def _implicit(what: str, numerics: Numerics) -> ImplicitReward:
    """`POLICY,REFERENCE`, or a DPO run alone, which knows its reference and its beta."""
    source, _, reference = what.partition(",")
    folder = Path(source)
    beta = 1.0
    if is_done(folder) and read_facts(folder)["stage"] == "dpo":
        settings = read_yaml(folder / "config.yaml")
        beta = float(settings["loss"].get("beta", 1.0))
        reference = reference or str(settings["model"])
    if not reference:
        raise ConfigError(
            "an implicit reward needs the model that the policy was trained from",
            where=f"implicit:{what}",
            fix=f"implicit:{source},REFERENCE",
        )
    policy, before = (
        load_policy(name, numerics, bytes_per_parameter=FROZEN_BYTES) for name in (source, reference)
    )
    return ImplicitReward(policy, before, beta)

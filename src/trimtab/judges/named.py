"""Judges by the name that people give them: `runs/judge`, `python:FILE.py:FUNCTION`, `implicit:runs/dpo`."""

from __future__ import annotations

from pathlib import Path

from trimtab.config import read_yaml
from trimtab.errors import ConfigError
from trimtab.judges.ensemble import Ensemble, MeanReward
from trimtab.judges.function import load_function
from trimtab.judges.implicit import ImplicitReward
from trimtab.judges.judge import ScoringJudge
from trimtab.judges.probe import load_probe
from trimtab.judges.reward_model import PaddedRewardModel, RewardModel
from trimtab.judges.words import load_word_judge
from trimtab.model.classifier import load_classifier
from trimtab.model.device import Numerics
from trimtab.model.load import load_config
from trimtab.model.policy import load_policy
from trimtab.model.scalar import load_scorer
from trimtab.runs.run import is_done, members_of, read_facts

FROZEN_BYTES = 4
KINDS = ("reward", "python", "implicit", "words", "probe")
LLM = "llm"
OWN_MARK = "reward_bias"
"""The field of config.json by which trimtab's own reward models are known."""


def load_judge(names: tuple[str, ...], numerics: Numerics) -> ScoringJudge:
    """The judge of one name, or the ensemble of several.

    Each name is `KIND:WHAT`; a name without a kind is a reward model.

    Raises:
        ConfigError: no name, one of an unknown kind, or a language model, which gives no scores.
        ModelError: a model cannot be read.
    """
    if not names:
        raise ConfigError("no judge is named", where="--by", fix="name a reward model: --by runs/judge")
    members = tuple(_one(name, numerics) for name in names)
    return members[0] if len(members) == 1 else Ensemble(members)


def _one(name: str, numerics: Numerics) -> ScoringJudge:
    kind, colon, what = name.partition(":")
    if kind == LLM and colon:
        raise ConfigError(
            "a language model gives verdicts, not scores, and scores are needed here",
            where=name,
            fix="name a reward model, implicit:DPO_RUN or python:FILE.py:FUNCTION",
        )
    if not colon or kind not in KINDS:
        kind, what = "reward", name
    if kind == "python":
        return load_function(what)
    if kind == "implicit":
        return _implicit(what, numerics)
    if kind == "words":
        return load_word_judge(what)
    if kind == "probe":
        return load_probe(what, numerics)
    return _reward_model(what, numerics)


def _reward_model(source: str, numerics: Numerics) -> ScoringJudge:
    """Packed and read at the stop token where trimtab has trained it; others as transformers reads them.

    A run that is an ensemble is the mean of its members.
    """
    if members := members_of(Path(source)):
        return MeanReward(source, tuple(_reward_model(str(member), numerics) for member in members))
    if hasattr(load_config(source), OWN_MARK):
        scorer = load_scorer(source, numerics, bytes_per_parameter=FROZEN_BYTES)
        return RewardModel(scorer, only_text=_has_only_read_text(Path(source)))
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
    return ImplicitReward(policy, before, beta, only_text=_has_only_read_text(folder))


def _has_only_read_text(source: Path) -> bool:
    """Whether a run says that it was trained on plain text without any chat; one that does not say so, no."""
    folder = source.parent if source.name == "model" else source
    if not (folder / "run.json").is_file():
        return False
    trained_on = read_facts(folder).get("data", {}).get("train", {})
    return bool(trained_on.get("chats") == 0)

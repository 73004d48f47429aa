"""Settings of the arena: who answers what, and who judges."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from trimtab.config import Settings
from trimtab.errors import ConfigError

_OF_MODELS = ("reward", "implicit")
_UNTRAINED = ("llm", "words", "probe")


class CompareSettings(Settings):
    """Policies answer the same held-out prompts; a judge that trained none of them compares them."""

    title: str = "PPO and DPO"
    """Heading of the report."""
    policies: dict[str, str]
    """Name -> run or model. The headline compares the first two."""
    reference: str
    """The policy that the KL is measured against; also one of `policies`, by its run or model."""
    judge: str | tuple[str, ...]
    """A reward model trained on pairs that no policy saw, implicit:DPO_RUN, or llm:SETTINGS.yaml; several
    that score are averaged."""
    proxy: str | None = None
    """PPO's own reward model, shown beside the judge."""
    witness: str | None = None
    """Another judge that scores, best of another family: a gain that only the judge sees is the judge's."""
    best_of: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """Also compare the reference's best of so many answers, chosen by the proxy: it needs one."""
    held_out: str
    """Comparisons that nobody was trained on: their prompts are answered, their verdicts test the judge."""
    judged_by: str = "people"
    """Whose verdicts these are, in the words of the report."""
    notes: tuple[str, ...] = ()
    """Sentences for the report's limits."""
    costs: dict[str, str] = Field(default_factory=dict)
    """Stage (sft, reward, judge, dpo, ppo) -> its run, for the account of what each method cost."""
    prompts: Annotated[int, Field(ge=2)] = 128
    """Held-out prompts to answer, at temperature 1."""
    shown: Annotated[int, Field(ge=0)] = 500
    """Prompts shown side by side in the report, the biggest disagreements first."""
    dialogues: Literal["chat", "raw"] = "chat"
    """How raw HH-RLHF dialogues are read."""
    device: str = "auto"
    """auto takes CUDA where there is one, else the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass."""
    seed: int = 0
    """Of sampling and of the bootstrap."""
    max_prompt: PositiveInt = 192
    """Tokens of a prompt at most."""
    max_response: PositiveInt = 64
    """Tokens of a response at most."""
    row_tokens: PositiveInt = 1024
    """Tokens that go through the model at once."""

    @property
    def judges(self) -> tuple[str, ...]:
        """The names of all that judge."""
        return (self.judge,) if isinstance(self.judge, str) else self.judge

    @property
    def judge_models(self) -> dict[str, str]:
        """Judge's name -> the run or model that it is made of; not those that nobody trained here."""
        models = {}
        for name in self.judges:
            kind, colon, what = name.partition(":")
            if not colon or kind not in (*_OF_MODELS, *_UNTRAINED):
                models[name] = name
            elif kind in _OF_MODELS:
                models[name] = what.partition(",")[0]
        return models

    @field_validator("judge")
    @classmethod
    def _no_code(cls, judge: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (judge,) if isinstance(judge, str) else judge:
            if name.startswith("python:"):
                raise ConfigError(
                    "settings may not name code to run",
                    where="judge",
                    found=name,
                    fix="trimtab judge MATCHES --by python:FILE.py:FUNCTION, where the command line names it",
                )
        return judge

    @model_validator(mode="after")
    def _names_that_mean_something_else(self) -> Self:
        taken = {"tie", *(f"best of {count}" for count in self.best_of)}
        for name in taken & set(self.policies):
            raise ConfigError(
                "this name means something else in a report",
                where="policies",
                found=name,
                fix="give the policy another name",
            )
        return self

    @model_validator(mode="after")
    def _best_by_the_proxy(self) -> Self:
        if self.best_of and self.proxy is None:
            raise ConfigError(
                "the best of several answers is chosen by the proxy",
                where="best_of",
                found="no proxy",
                fix="--set proxy=runs/reward",
            )
        return self

    @model_validator(mode="after")
    def _two_or_more(self) -> Self:
        if len(self.policies) < 2:
            raise ConfigError(
                "a comparison needs two policies",
                where="policies",
                found=", ".join(self.policies) or "none",
                fix="--set policies.ppo=runs/ppo --set policies.dpo=runs/dpo",
            )
        return self

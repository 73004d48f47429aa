"""Settings of the arena: who answers what, and who judges."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from trimtab.config import Settings
from trimtab.errors import ConfigError


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
    held_out: str
    """Comparisons that nobody was trained on: their prompts are answered, their verdicts test the judge."""
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
    def _two_or_more(self) -> Self:
        if len(self.policies) < 2:
            raise ConfigError(
                "a comparison needs two policies",
                where="policies",
                found=", ".join(self.policies) or "none",
                fix="--set policies.ppo=runs/ppo --set policies.dpo=runs/dpo",
            )
        return self

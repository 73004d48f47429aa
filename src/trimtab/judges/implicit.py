"""The reward that a policy implies: beta times its log-ratio to the reference, summed over a response.

Equation 5 of the method turned round; the term of the prompt alone is missing, so scores are comparable
between answers to one prompt only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from trimtab.data.tokens import Example, Limits
from trimtab.errors import ModelError
from trimtab.judges.judge import Answer, Scored, require_finite
from trimtab.judges.reward_model import LIMITS, ROW_TOKENS, by_prompt, encode_answers
from trimtab.model.passes import over_rows, response_count
from trimtab.model.policy import Policy, response_logprobs


@dataclass(frozen=True)
class ImplicitReward:
    """A policy and the reference that it was trained from."""

    nats: ClassVar[bool] = True
    policy: Policy
    reference: Policy
    beta: float
    limits: Limits = LIMITS
    row_tokens: int = ROW_TOKENS
    only_text: bool = False
    """Whether the policy has only ever learned to continue plain text: then a question is read so, too."""

    def __post_init__(self) -> None:
        if self.policy.codec.fingerprint != self.reference.codec.fingerprint:
            raise ModelError(
                "the policy has another tokenizer or chat template than its reference",
                where=self.policy.source,
                found=f"reference {self.reference.source}",
                fix="name the model that the policy was trained from",
            )

    @property
    def name(self) -> str:
        """Policy and reference."""
        return f"implicit:{self.policy.source},{self.reference.source}"

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """One implied reward an answer."""
        encoded = encode_answers(self.policy.codec, answers, self.limits, only_text=self.only_text)
        readable = [one for one in encoded if isinstance(one, Example)]
        pairs = zip(
            self._logprobs(self.policy, readable), self._logprobs(self.reference, readable), strict=True
        )
        rewards = iter([self.beta * (policy - reference) for policy, reference in pairs])
        found: list[Scored] = [next(rewards) if isinstance(one, Example) else one for one in encoded]
        require_finite(answers, found, self.name)
        return found

    def _logprobs(self, policy: Policy, examples: Sequence[Example]) -> list[float]:
        values = over_rows(
            by_prompt(examples, self.row_tokens),
            lambda row: row.sum_by_response(response_logprobs(policy.model, row)),
            response_count,
            row_tokens=self.row_tokens,
            numerics=policy.numerics,
            name="log-probabilities",
        )
        return torch.cat(values).tolist() if values else []

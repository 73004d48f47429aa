"""PPO's models: policy, reference, reward model and value model.

With all weights trained they are four models. With LoRA they are one trunk that nobody trains: policy, value
model and reward model have adapters of their own on it, and the reference is the trunk as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from trimtab.data.tokens import Example
from trimtab.errors import ConfigError
from trimtab.judges import reward_model
from trimtab.model import adapters, policy, scalar
from trimtab.model.device import Numerics, require_memory
from trimtab.model.load import load_tokenizer, parameter_count
from trimtab.model.names import base_of, resolve
from trimtab.model.policy import Policy
from trimtab.model.scalar import Scorer
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Answers
from trimtab.runs.run import Run
from trimtab.train import lora
from trimtab.train.loop import FROZEN_BYTES, TRAINED_BYTES
from trimtab.train.models import describe_parent, numerics_of, require_positions, weights_hash
from trimtab.train.settings import LoRASettings, PPOSettings

_Four = tuple[Policy, Policy, Scorer, Scorer]
"""Policy, reference, reward model and value model."""


@dataclass(frozen=True)
class PPOModels:
    """The models of PPO, and what they are used through."""

    policy: Policy
    reference: Policy
    """The policy as it was before this stage."""
    value: Scorer
    """Starts as the reward model."""
    answer: Answers
    """Samples from the policy as it is now."""
    score: Callable[[Sequence[Example]], Tensor]
    """The reward of each example's response: [R], on the CPU."""


def load_ppo_models(settings: PPOSettings, run: Run) -> PPOModels:
    """Load what the settings name.

    Raises:
        ConfigError: with LoRA, a reward model without adapters on the policy's weights, or as
            `lora.load_policy`.
        ModelError: the reward model reads other tokens than the policy.
        ResourceError: they would not fit into memory.
    """
    numerics = numerics_of(settings, run)
    describe_parent(run, "model", settings.model)
    describe_parent(run, "reward_model", settings.reward_model)
    if settings.lora is None:
        trained, reference, reward, value = _four_models(settings, numerics)
    else:
        trained, reference, reward, value = _one_trunk(settings, settings.lora, numerics, run)
    for frozen in (reference.model, reward.model):
        frozen.requires_grad_(False)
    return PPOModels(
        trained,
        reference,
        value,
        answer=partial(answer, trained),
        score=partial(rewards, reward, settings.row_tokens),
    )


def rewards(scorer: Scorer, row_tokens: int, examples: Sequence[Example]) -> Tensor:
    """The reward model's score of each example's one response: [R]."""
    scores = reward_model.score(scorer, examples, row_tokens=row_tokens, name="rewards")
    return torch.tensor([score for (score,) in scores])


def _four_models(settings: PPOSettings, numerics: Numerics) -> _Four:
    """The policy and the reward model, each twice."""
    _require_room_for_four(settings, numerics)
    trained = policy.load_policy(settings.model, numerics, bytes_per_parameter=TRAINED_BYTES)
    require_positions(trained.model, settings)
    reward = scalar.load_scorer(settings.reward_model, numerics, bytes_per_parameter=FROZEN_BYTES)
    reward.require_tokens_of(trained.codec, settings.model)
    reference = policy.load_policy(settings.model, numerics, bytes_per_parameter=FROZEN_BYTES)
    value = scalar.load_scorer(settings.reward_model, numerics, bytes_per_parameter=TRAINED_BYTES)
    return trained, reference, reward, value


def _require_room_for_four(settings: PPOSettings, numerics: Numerics) -> None:
    # Asked before the first is loaded: the others would not fit when it is too late.
    average = 0 if settings.average is None else FROZEN_BYTES
    needed = (2 * (TRAINED_BYTES + FROZEN_BYTES) + average) * parameter_count(settings.model)
    require_memory(numerics.device, needed, "PPO's policy, reference, reward and value models")


def _one_trunk(settings: PPOSettings, chosen: LoRASettings, numerics: Numerics, run: Run) -> _Four:
    """One frozen model, which is the reference; the others have adapters on it, the scorers also a head."""
    codec = load_tokenizer(settings.model)
    base, trunk = lora.load_base(settings, chosen, codec, numerics, run)
    _require_adapters_on(base, settings)
    lora.freeze(trunk, chosen, numerics)
    trained = adapters.twin(trunk)
    lora.attach(trained, base, settings, chosen, run)
    read = load_tokenizer(settings.reward_model)
    value = Scorer(
        scalar.with_saved_adapter(adapters.twin(trunk), settings.reward_model),
        read,
        numerics,
        settings.reward_model,
    )
    value.require_tokens_of(codec, settings.model)
    reward = replace(value, model=adapters.twin(value.model))
    reference = Policy(trunk, codec, numerics, settings.model)
    return replace(reference, model=trained), reference, reward, value


def _require_adapters_on(base: str, settings: PPOSettings) -> None:
    source = resolve(settings.reward_model)
    own = base_of(source)
    if own is None:
        found = "its weights are all its own"
    elif str(own) == base or (weights_hash(own) and weights_hash(own) == weights_hash(resolve(base))):
        return
    else:
        found = f"adapters on {own}, whose weights are others"
    raise ConfigError(
        "with LoRA, policy and reward model are adapters on the same weights",
        where="reward_model",
        found=f"{settings.reward_model}: {found}",
        fix=f"train it with lora from {settings.model}, or leave out lora here",
    )

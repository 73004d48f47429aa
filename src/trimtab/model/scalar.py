"""A backbone with a scalar head: reward models and value models.

Dimensions: R = responses in a row, N = response tokens, D = model size. Unit: reward.

The class is transformers' own `...ForSequenceClassification` with one label, so that what a run
saves loads anywhere. trimtab reads the head at the place it needs: a reward at a response's last
token (its stop token, or where it was cut), values at every position that predicts a token.
`reward_bias` in config.json is what is taken off, so that reference demonstrations have mean 0.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Codec
from trimtab.errors import ModelError
from trimtab.model import adapters, load
from trimtab.model.device import Numerics, require_memory
from trimtab.model.names import resolve
from trimtab.model.packed import hidden_states

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

HEAD = "score"


@dataclass(frozen=True)
class Scorer:
    """A model with a scalar head and its tokenizer, and where and how it computes."""

    model: PreTrainedModel
    codec: Codec
    numerics: Numerics
    source: str
    """What it was loaded from."""

    def require_tokens_of(self, codec: Codec, owner: str) -> None:
        """Refuse to score ids that mean other text here.

        Raises:
            ModelError: vocabulary, template or stop token differ.
        """
        if self.codec.fingerprint != codec.fingerprint:
            raise ModelError(
                "the reward model has another tokenizer or chat template than the policy",
                where=self.source,
                found=f"{len(self.codec.tokenizer)} tokens there, {len(codec.tokenizer)} in {owner}",
                fix="train the reward model from the same base model as the policy",
            )


def load_scorer(source: str, numerics: Numerics, *, bytes_per_parameter: int) -> Scorer:
    """Load a reward model that the reward stage has saved.

    Raises:
        ModelError: it cannot be loaded, or has no scalar head.
        ResourceError: it would not fit into memory.
    """
    require_memory(numerics.device, load.parameter_count(source) * bytes_per_parameter, source)
    model = load.load_scalar(source, device=numerics.device)
    _require_scalar_head(model, source)
    return Scorer(model, load.load_tokenizer(source), numerics, source)


def new_scorer(
    source: str, numerics: Numerics, generator: torch.Generator, *, bytes_per_parameter: int
) -> Scorer:
    """A policy's backbone with a fresh head.

    Raises:
        ModelError: it cannot be loaded, or transformers has no scalar head for its kind.
        ResourceError: it would not fit into memory.
    """
    require_memory(numerics.device, load.parameter_count(source) * bytes_per_parameter, source)
    codec = load.load_tokenizer(source)
    model = with_new_head(load.load_causal(source, device="cpu"), codec, generator, source)
    return Scorer(model.to(numerics.device), codec, numerics, source)


def with_new_head(
    policy: PreTrainedModel, codec: Codec, generator: torch.Generator, source: str
) -> PreTrainedModel:
    """The policy's own backbone in transformers' sequence classifier of its family, with one label.

    Raises:
        ModelError: transformers has no scalar head for its kind.
    """
    config = copy.deepcopy(policy.config)
    config.num_labels, config.pad_token_id = 1, codec.pad_id
    config.architectures = None
    config.problem_type = "regression"  # for pipelines and vLLM: the score itself, not its sigmoid
    config.id2label, config.label2id = {0: "reward"}, {"reward": 0}
    config.reward_bias = 0.0  # until the scores are centred; and the mark of trimtab's own reward models
    model = _with_empty_head(policy, config, source)
    if _head(model).bias is not None:
        nn.init.zeros_(_head(model).bias)
    initialise_head(model, generator)
    return model


def with_saved_adapter(policy: PreTrainedModel, source: str) -> PreTrainedModel:
    """A reward model that was trained as an adapter, on the policy's own backbone; the adapter not merged.

    Args:
        policy: frozen, with the weights that the adapter was trained on.
        source: a run of the reward stage with LoRA.
    Raises:
        ModelError: the adapter cannot be read or does not fit.
    """
    model = _with_empty_head(policy, load.load_config(source), source)
    _require_scalar_head(model, source)
    adapters.load(model, Path(resolve(source)))
    return model


def _with_empty_head(policy: PreTrainedModel, config: PretrainedConfig, source: str) -> PreTrainedModel:
    """The policy's backbone in the sequence classifier of its family, whose head is not set."""
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(
                config, attn_implementation=policy.config._attn_implementation
            )
    except ValueError as error:
        raise ModelError(
            "transformers has no scalar head for this kind of model",
            where=source,
            found=f"model_type = {config.model_type}",
            fix="begin from a model that has a ...ForSequenceClassification class",
        ) from error
    assert type(model.base_model) is type(policy.base_model), "the families have one backbone each"
    setattr(model, model.base_model_prefix, policy.base_model)
    model.get_submodule(HEAD).to_empty(device=policy.device)
    scored: PreTrainedModel = model.eval()
    return scored


def initialise_head(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Draw the head from a normal distribution of mean 0 and std 1/sqrt(D + 1).

    Source: Ziegler et al. 2019, code; Stiennon et al. 2020, code (the paper prints the variance).
    """
    weight = _head(model).weight
    std = 1 / math.sqrt(weight.shape[1] + 1)
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def rewards(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """The reward of each response, read at its last token: [R] float32."""
    return _scalars(model, hidden_states(model.base_model, row)[row.last])


def values(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """The reward expected before each response token is chosen: [N] float32."""
    return _scalars(model, hidden_states(model.base_model, row)[row.predictors])


def reward_bias(model: PreTrainedModel) -> float:
    """What is taken off every score, so that reference demonstrations have mean 0."""
    return float(getattr(model.config, "reward_bias", 0.0))


def rescale(model: PreTrainedModel, *, mean: float, deviation: float) -> None:
    """Make every value s of the head (s - mean) / deviation from now on; a ranking stays as it is.

    Source: Ziegler et al. 2019, code: a gain and a bias.
    """
    with torch.no_grad():
        for parameter in _head(model).parameters():
            parameter.div_(deviation)
    model.config.reward_bias = (reward_bias(model) + mean) / deviation


def _require_scalar_head(model: PreTrainedModel, source: str) -> None:
    if not isinstance(getattr(model, HEAD, None), nn.Linear) or model.config.num_labels != 1:
        raise ModelError(
            "this is no reward model that trimtab can read",
            where=source,
            found=f"{type(model).__name__} with {model.config.num_labels} labels",
            fix=f"name a run of `trimtab reward`: one label and a linear head called {HEAD}",
        )


def _head(model: PreTrainedModel) -> nn.Linear:
    head = getattr(model, HEAD)
    assert isinstance(head, nn.Linear), "load_scalar gives models with a linear head"
    return head


def _scalars(model: PreTrainedModel, states: Tensor) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        scores: Tensor = _head(model)(states.to(_head(model).weight.dtype))
    if not torch.isfinite(scores).all():
        raise ModelError(
            "the scalar head gives values that are not finite",
            where=str(model.config.name_or_path),
            fix="set precision to float32, or train it again with a lower learning rate",
        )
    return scores.squeeze(-1) - reward_bias(model)

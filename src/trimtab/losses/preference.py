"""The preference losses by name, and what each one needs.

A loss's positional parameters are what it reads, its keyword-only parameters are its options: the
signature is the only place that says so. To add a loss, write the function and its row here.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.errors import ConfigError
from trimtab.losses import anchored, dpo, lengths, pointwise, reference_free, transport
from trimtab.losses.pairs import PairLengths, PairLogprobs, PairLoss

PREFERENCE_LOSSES: dict[str, Callable[..., PairLoss]] = {
    "dpo": dpo.dpo_loss,
    "cdpo": dpo.cdpo_loss,
    "robust": dpo.robust_loss,
    "hinge": dpo.hinge_loss,
    "ipo": dpo.ipo_loss,
    "ipo_mean": lengths.ipo_mean_loss,
    "exo": dpo.exo_loss,
    "discopop": dpo.discopop_loss,
    "forward_kl_dpo": dpo.forward_kl_dpo_loss,
    "js_dpo": dpo.js_dpo_loss,
    "alpha_dpo": dpo.alpha_dpo_loss,
    "wpo": dpo.wpo_loss,
    "dpo_norm": lengths.dpo_norm_loss,
    "r_dpo": lengths.r_dpo_loss,
    "ld_dpo": lengths.ld_dpo_loss,
    "rpo": anchored.rpo_loss,
    "dpop": anchored.dpop_loss,
    "nca": pointwise.nca_loss,
    "bco": pointwise.bco_loss,
    "sppo": pointwise.sppo_loss,
    "apo_zero": pointwise.apo_zero_loss,
    "apo_down": pointwise.apo_down_loss,
    "kto": pointwise.kto_loss,
    "aot": transport.aot_loss,
    "aot_unpaired": transport.aot_unpaired_loss,
    "orpo": reference_free.orpo_loss,
    "simpo": reference_free.simpo_loss,
    "cpo": reference_free.cpo_loss,
}

QUANTILES = frozenset({"aot", "aot_unpaired"})
"""Losses that sort the pairs of the optimizer step."""

WHOLE_BATCH = QUANTILES | {"kto"}
"""Losses of a pair that depend on the other pairs of the optimizer step."""


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss with its options fixed."""

    name: str
    options: Mapping[str, float]
    """Every option of the loss, the defaults written out."""

    @property
    def inputs(self) -> frozenset[str]:
        """What it reads: `policy`, `reference`, `lengths` and so on."""
        kinds = inspect.signature(PREFERENCE_LOSSES[self.name]).parameters.values()
        return frozenset(kind.name for kind in kinds if kind.kind is not kind.KEYWORD_ONLY)

    @property
    def needs_whole_batch(self) -> bool:
        """Whether all pairs of an optimizer step must be given at once."""
        return self.name in WHOLE_BATCH

    @property
    def compares_quantiles(self) -> bool:
        """Whether entry i of the loss belongs to the i-th smallest values instead of to pair i."""
        return self.name in QUANTILES

    def __call__(self, **inputs: Any) -> PairLoss:
        """The loss of each pair; inputs beyond those it reads are an error."""
        return PREFERENCE_LOSSES[self.name](**inputs, **self.options)


def preference_loss(name: str, options: Mapping[str, float], *, where: str = "loss") -> PreferenceLoss:
    """The loss of this name with these options; what is not given takes its default.

    Raises:
        ConfigError: no such loss, an option that it does not take, or a value that it refuses.
    Source: the table in docs/math.md#preference-losses.
    """
    known = default_options(name, where=where)
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"the loss {name} has no such option, and would ignore it",
                where=f"{where}.{option}",
                found=f"{option} = {value!r}",
                fix=_nearest(option, list(known)),
            )
    loss = PreferenceLoss(name, {**known, **options})
    _try_out(loss, where)
    return loss


def default_options(name: str, *, where: str = "loss") -> dict[str, float]:
    """The options of a loss with their defaults.

    Raises:
        ConfigError: no such loss.
    Source: the table in docs/math.md#preference-losses.
    """
    if name not in PREFERENCE_LOSSES:
        raise ConfigError(
            "there is no such preference loss",
            where=f"{where}.name",
            found=repr(name),
            fix=_nearest(name, list(PREFERENCE_LOSSES)),
        )
    kinds = inspect.signature(PREFERENCE_LOSSES[name]).parameters.values()
    return {kind.name: float(kind.default) for kind in kinds if kind.kind is kind.KEYWORD_ONLY}


def _try_out(loss: PreferenceLoss, where: str) -> None:
    """One pair through the loss, so that a value out of range is refused before any model is loaded."""
    one = torch.ones(1)
    pair = PairLogprobs(-one, -one)
    inputs = {name: pair for name in loss.inputs} | {"lengths": PairLengths(one, one), "mismatch": one}
    try:
        loss(**{name: inputs[name] for name in loss.inputs})
    except ValueError as error:
        raise ConfigError(str(error), where=where, found=f"{loss.name} with {dict(loss.options)}") from None


def _nearest(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"

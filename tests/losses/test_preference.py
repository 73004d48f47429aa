"""The table of preference losses: names, inputs, options, and what holds for every row of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.losses.pairs import PairLengths, PairLogprobs, PairLoss
from trimtab.losses.preference import (
    PREFERENCE_LOSSES,
    QUANTILES,
    WHOLE_BATCH,
    PreferenceLoss,
    default_options,
    preference_loss,
)

BOTH = {"policy", "reference"}
WITH_LENGTHS = {"policy", "reference", "lengths"}
NO_REFERENCE = {"policy", "lengths"}

INPUTS: dict[str, set[str]] = {
    "dpo": BOTH,
    "cdpo": BOTH,
    "robust": BOTH,
    "hinge": BOTH,
    "ipo": BOTH,
    "ipo_mean": WITH_LENGTHS,
    "exo": BOTH,
    "discopop": BOTH,
    "forward_kl_dpo": BOTH,
    "js_dpo": BOTH,
    "alpha_dpo": BOTH,
    "wpo": {"policy", "reference", "likeness"},
    "dpo_norm": WITH_LENGTHS,
    "r_dpo": WITH_LENGTHS,
    "ld_dpo": {"policy", "reference", "policy_tail", "reference_tail"},
    "rpo": WITH_LENGTHS,
    "dpop": BOTH,
    "nca": BOTH,
    "bco": BOTH,
    "sppo": BOTH,
    "apo_zero": BOTH,
    "apo_down": BOTH,
    "kto": {"policy", "reference", "mismatch"},
    "aot": BOTH,
    "aot_unpaired": BOTH,
    "orpo": NO_REFERENCE,
    "simpo": NO_REFERENCE,
    "cpo": NO_REFERENCE,
}

DEFAULTS: dict[str, dict[str, float]] = {
    "dpo": {"beta": 0.1},
    "cdpo": {"beta": 0.1, "label_noise": 0.1},
    "robust": {"beta": 0.1, "label_noise": 0.1},
    "hinge": {"beta": 0.1},
    "ipo": {"beta": 0.1},
    "ipo_mean": {"beta": 0.1},
    "exo": {"beta": 0.1, "label_noise": 0.001},
    "discopop": {"beta": 0.05, "temperature": 0.05},
    "forward_kl_dpo": {"beta": 0.1},
    "js_dpo": {"beta": 0.1},
    "alpha_dpo": {"beta": 0.1, "alpha": 0.5},
    "wpo": {"beta": 0.1},
    "dpo_norm": {"beta": 5.0},
    "r_dpo": {"beta": 0.1, "length_penalty": 0.01},
    "ld_dpo": {"beta": 0.1, "tail_weight": 0.5},
    "rpo": {"beta": 0.1, "likelihood": 1.0},
    "dpop": {"beta": 0.1, "shortfall": 50.0},
    "nca": {"beta": 0.1},
    "bco": {"beta": 0.1, "shift": 0.0},
    "sppo": {"beta": 0.1},
    "apo_zero": {"beta": 0.1},
    "apo_down": {"beta": 0.1},
    "kto": {"beta": 0.1, "chosen_weight": 1.0, "rejected_weight": 1.0},
    "aot": {"beta": 0.1},
    "aot_unpaired": {"beta": 0.1},
    "orpo": {"odds_weight": 0.1},
    "simpo": {"beta": 2.0, "margin": 1.0},
    "cpo": {"beta": 0.1, "likelihood": 1.0},
}

# Options at which a loss is steeper than by default, or its terms larger.
STEEP: dict[str, dict[str, float]] = {
    "cdpo": {"beta": 5.0, "label_noise": 0.4},
    "robust": {"beta": 5.0, "label_noise": 0.49},
    "exo": {"beta": 5.0, "label_noise": 1e-9},
    "discopop": {"beta": 5.0, "temperature": 1.0},
    "alpha_dpo": {"beta": 5.0, "alpha": -2.0},
    "r_dpo": {"beta": 5.0, "length_penalty": 10.0},
    "ld_dpo": {"beta": 5.0, "tail_weight": 0.0},
    "rpo": {"beta": 5.0, "likelihood": 100.0},
    "bco": {"beta": 5.0, "shift": -100.0},
    "kto": {"beta": 5.0, "chosen_weight": 9.0, "rejected_weight": 0.0},
    "orpo": {"odds_weight": 10.0},
    "simpo": {"beta": 50.0, "margin": 20.0},
    "cpo": {"beta": 5.0, "likelihood": 100.0},
}

NAMES = list(PREFERENCE_LOSSES)
ONE_BY_ONE = [name for name in NAMES if name not in {"kto", "aot", "aot_unpaired"}]

# Losses that a constant of each prompt, added to both log-probabilities, leaves as they are.
OF_THE_MARGIN = {
    "dpo", "cdpo", "robust", "hinge", "ipo", "exo", "discopop", "wpo", "r_dpo", "ld_dpo", "aot",
}  # fmt: skip

FAR = 1e4
RATIOS = st.floats(-FAR, FAR) | st.floats(-3, 3) | st.sampled_from([0.0, FAR, -FAR, 50.0, -50.0])
BELOW_0 = st.floats(-FAR, 0)
LENGTHS = st.integers(1, 500)
SHARES = st.floats(0, 1)


@dataclasses.dataclass(frozen=True)
class Pair:
    """What a pair may be, in nats: log-ratios of any sign, and log-probabilities at most 0."""

    ratios: tuple[float, float]
    below: tuple[float, float]
    lengths: tuple[int, int]
    tail: float
    likeness: tuple[float, float]
    mismatch: float


PAIRS = st.builds(
    Pair,
    ratios=st.tuples(RATIOS, RATIOS),
    below=st.tuples(BELOW_0, BELOW_0),
    lengths=st.tuples(LENGTHS, LENGTHS),
    tail=SHARES,
    likeness=st.tuples(RATIOS, RATIOS),
    mismatch=RATIOS,
)


def pairs_of(values: list[tuple[float, float]], dtype: torch.dtype) -> PairLogprobs:
    return PairLogprobs(
        *(torch.tensor(side, dtype=dtype, requires_grad=True) for side in zip(*values, strict=True))
    )


def inputs_of(pairs: list[Pair], dtype: torch.dtype) -> dict[str, Any]:
    """Every input that some loss reads; all log-probabilities are at most 0."""
    policy = [tuple(b + min(0.0, r) for b, r in zip(p.below, p.ratios, strict=True)) for p in pairs]
    reference = [tuple(b + min(0.0, -r) for b, r in zip(p.below, p.ratios, strict=True)) for p in pairs]
    # Only the longer response has a tail.
    tails = [(p.tail * (p.lengths[0] > p.lengths[1]), p.tail * (p.lengths[1] > p.lengths[0])) for p in pairs]

    def tail_of(sums: list[tuple[float, ...]]) -> PairLogprobs:
        return pairs_of([(t[0] * s[0], t[1] * s[1]) for t, s in zip(tails, sums, strict=True)], dtype)

    chosen, rejected = zip(*(p.lengths for p in pairs), strict=True)
    return {
        "policy": pairs_of(policy, dtype),
        "reference": pairs_of(reference, dtype),
        "lengths": PairLengths(torch.tensor(chosen), torch.tensor(rejected)),
        "policy_tail": tail_of(policy),
        "reference_tail": tail_of(reference),
        "likeness": pairs_of([p.likeness for p in pairs], dtype),
        "mismatch": torch.tensor([p.mismatch for p in pairs], dtype=dtype, requires_grad=True),
    }


def read(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: inputs[key] for key in INPUTS[name]}


def some_inputs(seed: int = 0, count: int = 4) -> dict[str, Any]:
    """Ordinary pairs: log-ratios within a few nats, lengths that differ."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, 7, generator=generator, dtype=torch.float64).tolist()
    return inputs_of(
        [
            Pair((a, b), (c - 9, d - 9), (2 + place, 5 - place), 0.4, (e, f), g)
            for place, (a, b, c, d, e, f, g) in enumerate(draws)
        ],
        torch.float64,
    )


def check_finite(name: str, pairs: list[Pair], dtype: torch.dtype, options: dict[str, float]) -> None:
    inputs = read(name, inputs_of(pairs, dtype))
    found = PREFERENCE_LOSSES[name](**inputs, **options)
    for part in found:
        assert part.shape == (len(pairs),) and part.dtype == dtype
        assert torch.isfinite(part).all()
    found.loss.sum().backward()
    for part in [*inputs["policy"], *inputs.get("policy_tail", ())]:
        assert part.grad.shape == (len(pairs),)
        assert torch.isfinite(part.grad.norm())  # what clipping divides by: squares must fit too


# The table


def test_names_and_inputs() -> None:
    assert list(INPUTS) == NAMES
    assert {name: set(preference_loss(name, {}).inputs) for name in NAMES} == INPUTS


def test_options_and_their_defaults() -> None:
    assert {name: default_options(name) for name in NAMES} == DEFAULTS
    assert {name: dict(preference_loss(name, {}).options) for name in NAMES} == DEFAULTS
    assert all(type(value) is float for name in NAMES for value in default_options(name).values())


def test_each_name_is_the_function_of_that_name() -> None:
    assert {name: function.__name__ for name, function in PREFERENCE_LOSSES.items()} == {
        name: f"{name}_loss" for name in INPUTS
    }


def test_losses_of_the_whole_batch() -> None:
    losses = [preference_loss(name, {}) for name in NAMES]
    for named, found in [
        (WHOLE_BATCH, {loss.name for loss in losses if loss.needs_whole_batch}),
        (QUANTILES | {"kto"}, {loss.name for loss in losses if loss.needs_whole_batch}),
        (QUANTILES, {loss.name for loss in losses if loss.compares_quantiles}),
    ]:
        assert named == found
    assert sorted(QUANTILES) == ["aot", "aot_unpaired"]


@pytest.mark.parametrize("name", NAMES)
def test_calling_it_is_calling_the_function_with_its_options(name: str) -> None:
    inputs = read(name, some_inputs())
    defaults, function = preference_loss(name, {}), PREFERENCE_LOSSES[name]
    assert_equal(defaults(**inputs), function(**inputs))
    assert_equal(defaults(**inputs), function(**inputs, **DEFAULTS[name]))
    given_options = STEEP.get(name, {"beta": 0.7})
    assert_equal(preference_loss(name, given_options)(**inputs), function(**inputs, **given_options))


def assert_equal(found: PairLoss, expected: PairLoss) -> None:
    assert [part.tolist() for part in found] == [part.tolist() for part in expected]


def test_options_that_are_given_replace_their_defaults_alone() -> None:
    given_options = {"label_noise": 0.2}
    found = preference_loss("cdpo", given_options)
    assert found == PreferenceLoss("cdpo", {"beta": 0.1, "label_noise": 0.2})
    given_options["label_noise"] = 0.3
    assert found.options["label_noise"] == 0.2
    assert default_options("cdpo") == DEFAULTS["cdpo"]


def test_a_loss_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        preference_loss("dpo", {}).name = "ipo"  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
def test_an_input_that_is_not_read_is_an_error(name: str) -> None:
    inputs = some_inputs()
    spare = next(key for key in inputs if key not in INPUTS[name])
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{spare}'"):
        preference_loss(name, {})(**read(name, inputs), **{spare: inputs[spare]})


@pytest.mark.parametrize("name", NAMES)
def test_an_option_of_another_loss_is_refused(name: str) -> None:
    every = {option for options in DEFAULTS.values() for option in options}
    for option in sorted(every - set(DEFAULTS[name])):
        with pytest.raises(ConfigError, match=f"the loss {name} has no such option, and would ignore it"):
            preference_loss(name, {**DEFAULTS[name], option: 0.25})


def test_a_refused_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        preference_loss("cdpo", {"beta": 0.2, "label_nose": 0.25}, where="dpo.loss")
    assert str(caught.value) == (
        "dpo.loss.label_nose: the loss cdpo has no such option, and would ignore it\n"
        "  found: label_nose = 0.25\n"
        "  fix:   did you mean label_noise?"
    )


def test_a_refused_option_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(ConfigError) as caught:
        preference_loss("cdpo", {"zzz": 1.0})
    assert str(caught.value) == (
        "loss.zzz: the loss cdpo has no such option, and would ignore it\n"
        "  found: zzz = 1.0\n"
        "  fix:   known here: beta, label_noise"
    )


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        preference_loss("robst", {}, where="dpo.loss")
    assert str(caught.value) == (
        "dpo.loss.name: there is no such preference loss\n  found: 'robst'\n  fix:   did you mean robust?"
    )


def test_an_unknown_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(ConfigError) as caught:
        preference_loss("zzzzzz", {})
    assert caught.value.where == "loss.name"
    assert caught.value.found == "'zzzzzz'"
    assert caught.value.fix == f"known here: {', '.join(INPUTS)}"


def test_defaults_of_an_unknown_name_are_refused_alike() -> None:
    with pytest.raises(ConfigError) as caught:
        default_options("robst")
    assert (caught.value.where, caught.value.fix) == ("loss.name", "did you mean robust?")
    with pytest.raises(ConfigError, match=r"^elsewhere\.name: there is no such preference loss"):
        default_options("robst", where="elsewhere")


OUT_OF_RANGE = {
    "beta": ("dpo", 0.0, "beta must be > 0"),
    "label_noise": ("cdpo", 0.5, "label_noise must be in [0, 0.5)"),
    "temperature": ("discopop", 2.0, "temperature must be in (0, 1]"),
    "alpha": ("alpha_dpo", 1.0, "alpha must be < 1"),
    "tail_weight": ("ld_dpo", -0.1, "tail_weight must be in [0, 1]"),
    "likelihood": ("rpo", -1.0, "likelihood must be >= 0"),
    "shortfall": ("dpop", -1.0, "shortfall must be >= 0"),
    "chosen_weight": ("kto", -1.0, "chosen_weight must be >= 0"),
    "rejected_weight": ("kto", -1.0, "rejected_weight must be >= 0"),
    "odds_weight": ("orpo", -1.0, "odds_weight must be >= 0"),
    "margin": ("simpo", -1.0, "margin must be >= 0"),
    "shift": ("bco", math.inf, "shift must be a finite number"),
    "length_penalty": ("r_dpo", -math.inf, "length_penalty must be a finite number"),
}


@pytest.mark.parametrize("option", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_before_anything_is_read(option: str) -> None:
    name, value, message = OUT_OF_RANGE[option]
    with pytest.raises(ConfigError) as caught:
        preference_loss(name, {option: value}, where="dpo.loss")
    assert caught.value.what.startswith(f"{message}, got {value}")
    assert caught.value.where == "dpo.loss"
    assert caught.value.found == f"{name} with { ({**DEFAULTS[name], option: value}) }"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in NAMES for option in DEFAULTS[name]])
def test_what_is_not_a_number_is_refused(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} .* got nan"):
        preference_loss(name, {option: math.nan})


@pytest.mark.parametrize("name", [name for name in NAMES if "beta" in DEFAULTS[name]])
def test_every_beta_is_tried_out(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^loss: beta must be > 0, got -0\.1"):
        preference_loss(name, {"beta": -0.1})


def test_the_name_is_looked_at_before_the_options() -> None:
    with pytest.raises(ConfigError, match="no such preference loss"):
        preference_loss("robst", {"zzz": 1.0})


# What holds for every loss


@given(pairs=st.lists(PAIRS, min_size=1, max_size=4), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_extreme_pairs_stay_finite(pairs: list[Pair], dtype: torch.dtype) -> None:
    for name in NAMES:
        note(name)
        check_finite(name, pairs, dtype, {})
        check_finite(name, pairs, dtype, STEEP.get(name, {"beta": 5.0}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_corner_stays_finite(name: str, dtype: torch.dtype) -> None:
    """All combinations of extreme log-ratios, with certain and with hopeless responses, at once."""
    ends = [-FAR, -88.8, -50.0, -1.0, 0.0, 1.0, 50.0, 88.8, FAR]
    pairs = [
        Pair((a, b), (below, -below - FAR), lengths, 1.0, (a, b), a)
        for a, b in itertools.product(ends, ends)
        for below in (0.0, -FAR)
        for lengths in ((1, 500), (500, 1), (1, 1))
    ]
    check_finite(name, pairs, dtype, {})
    check_finite(name, pairs, dtype, STEEP.get(name, {"beta": 5.0}))


@given(first=st.lists(PAIRS, min_size=2, max_size=4), other=PAIRS, place=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_pair_does_not_see_the_others(first: list[Pair], other: Pair, place: int) -> None:
    place %= len(first)
    changed = [*first]
    changed[place] = other
    before, after = (inputs_of(pairs, torch.float64) for pairs in (first, changed))
    kept = torch.arange(len(first)) != place
    for name in ONE_BY_ONE:
        losses = [PREFERENCE_LOSSES[name](**read(name, inputs)).loss for inputs in (before, after)]
        assert torch.equal(losses[0][kept], losses[1][kept]), name


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_pair_alone_is_that_pair_in_a_batch(name: str) -> None:
    inputs = read(name, some_inputs())
    together = PREFERENCE_LOSSES[name](**inputs)
    for place in range(4):
        alone = {key: type(value)(*(side[[place]] for side in value)) for key, value in inputs.items()}
        found = PREFERENCE_LOSSES[name](**alone)
        assert [part.item() for part in found] == pytest.approx(
            [part[place].item() for part in together], rel=1e-13
        )


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_the_gradient_of_a_pair_stays_in_the_pair(name: str) -> None:
    inputs = read(name, some_inputs())
    loss = PREFERENCE_LOSSES[name](**inputs).loss
    for place in range(4):
        for slope in torch.autograd.grad(loss[place], inputs["policy"], retain_graph=True):
            others = [where for where in range(4) if where != place]
            assert slope[others].tolist() == [0.0] * 3


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_of_the_prompt_cancels_where_only_the_margin_counts(name: str) -> None:
    """Property 15; the others must show it, or this test would not see it either."""
    inputs = read(name, some_inputs())
    shift = torch.tensor([-2.0, 0.3, 1.0, -0.7], dtype=torch.float64)
    moved = {**inputs, "policy": PairLogprobs(*(side + shift for side in inputs["policy"]))}
    function = PREFERENCE_LOSSES[name]
    change = (function(**moved).loss - function(**inputs).loss).abs().max().item()
    assert (change < 1e-12) == (name in OF_THE_MARGIN)


@pytest.mark.parametrize("name", [name for name in NAMES if "reference" in INPUTS[name]])
def test_a_constant_in_both_models_cancels_wherever_there_is_a_reference(name: str) -> None:
    """Only the ratio counts, but for a term of the chosen response's likelihood."""
    inputs = read(name, some_inputs())
    moved = {**inputs, **{key: PairLogprobs(*(side - 1.5 for side in inputs[key])) for key in sorted(BOTH)}}
    function = PREFERENCE_LOSSES[name]
    change = (function(**moved).loss - function(**inputs).loss).abs().max().item()
    assert (change < 1e-12) == (name != "rpo")


@pytest.mark.parametrize("key", ["reference", "reference_tail", "likeness", "mismatch"])
def test_only_the_policy_takes_a_gradient(key: str) -> None:
    taking = []
    for name in [name for name in NAMES if key in INPUTS[name]]:
        inputs = read(name, some_inputs())
        PREFERENCE_LOSSES[name](**inputs).loss.sum().backward()
        frozen = [inputs[key]] if key == "mismatch" else inputs[key]
        taking += [name] if any(side.grad is not None for side in frozen) else []
    assert taking == []


@pytest.mark.parametrize("name", NAMES)
def test_rewards_are_those_of_the_options(name: str) -> None:
    """At the reference they are equal on both sides, and the policy's gain raises its own side's alone."""
    inputs = read(name, some_inputs())
    raised = inputs["policy"]._replace(chosen=inputs["policy"].chosen + 0.5)
    before, after = PREFERENCE_LOSSES[name](**inputs), PREFERENCE_LOSSES[name](**{**inputs, "policy": raised})
    assert (after.chosen_reward > before.chosen_reward).all()
    assert after.rejected_reward.tolist() == before.rejected_reward.tolist()
    assert all(math.isfinite(value) for value in after.chosen_reward.tolist())

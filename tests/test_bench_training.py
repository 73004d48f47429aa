"""The pure parts of benchmarks/training: counted operations, the gate's verdicts, the order of the arms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS / "training"), str(BENCHMARKS / "trl"), *sys.path])


def steps(*losses: float, norm: float = 2.0) -> list[dict[str, float]]:
    return [{"loss": loss, "grad_norm": norm} for loss in losses]


def test_the_needed_operations_of_a_small_model_by_hand() -> None:
    from flops import Shape, minimum_flops

    # Two layers; width 4; two query heads and one key head of width 3; inner 5; vocabulary 7.
    # A layer: q 4x6, k and v 4x3 each, o 6x4 = 24 + 12 + 12 + 24 = 72; three of 4x5 = 60; together 132.
    shape = Shape(layers=2, width=4, inner=5, heads=2, key_value_heads=1, head_width=3, vocabulary=7)
    assert shape.body_parameters == 2 * 132
    # Prompt 2, responses 1 and 3: 6 tokens. Keys seen: prompt 1, 2; first 3; second 3, 4, 5: 18 in all.
    # Each costs a head 2 x 3 + 2 x 3 forward, twice that backward: 36, in 2 heads and 2 layers: 144.
    # Head: 4 scored tokens on 4 x 7 weights, twice forward and four times backward.
    expected = 6 * 264 * 6 + 144 * 18 + 6 * 28 * 4
    assert minimum_flops(shape, 2, [1, 3], outputs=7, scored=4) == expected


def test_the_needed_operations_count_each_pair_of_query_and_key() -> None:
    from flops import Shape, minimum_flops

    shape = Shape(layers=3, width=8, inner=16, heads=2, key_value_heads=2, head_width=4, vocabulary=11)
    prompt, responses = 5, [4, 7]
    seen = sum(
        1
        for response in [None, *responses]
        for query in range(prompt if response is None else response)
        for key in range(prompt + (response or 0))
        if (key <= query if response is None else key <= prompt + query)
    )
    with_attention = minimum_flops(shape, prompt, responses, outputs=1, scored=2)
    assert with_attention == 6 * shape.body_parameters * 16 + 12 * 3 * 2 * 4 * seen + 6 * 8 * 2


@pytest.mark.parametrize(
    "theirs, passed",
    [
        (steps(1.0, 2.0), True),
        (steps(1.0, 2.0 * (1 + 0.9e-4)), True),
        (steps(1.0, 2.0 * (1 + 1.1e-4)), False),
        (steps(1.0 * (1 + 1.1e-5), 2.0), False),
        (steps(1.0, 2.0, norm=2.0 * (1 + 1.1e-4)), False),
        (steps(1.0), True),
    ],
)
def test_the_float32_gate(theirs: list[dict[str, float]], passed: bool) -> None:
    from gate import float32_verdict

    assert float32_verdict("theirs", steps(1.0, 2.0), theirs).passed is passed


def test_the_bfloat16_gate_asks_who_is_further_away() -> None:
    from gate import bfloat16_verdict

    curve, near, far = steps(1.0, 2.0), steps(1.01, 1.98), steps(1.0, 1.97)
    assert bfloat16_verdict(near, far, curve).passed
    assert not bfloat16_verdict(far, near, curve).passed


def rows() -> list[dict[str, list[int]]]:
    lengths = [(10, 3, 5), (4, 2, 2), (7, 6, 1)]
    return [
        {"prompt_ids": [100 * i] * p, "chosen_ids": [100 * i + 1] * c, "rejected_ids": [100 * i + 2] * r}
        for i, (p, c, r) in enumerate(lengths)
    ]


def test_the_shapes_of_the_cases() -> None:
    from cases import adverse, prompt_heavy, response_heavy

    heavy = prompt_heavy(rows(), 0)
    assert len(heavy["prompt_ids"]) == 24
    assert heavy["prompt_ids"][-10:] == rows()[0]["prompt_ids"], "the pair's own prompt comes last"
    assert heavy["chosen_ids"] == rows()[0]["chosen_ids"]

    heavy = response_heavy(rows(), 0)
    assert (len(heavy["chosen_ids"]), len(heavy["rejected_ids"])) == (22, 38)  # 30 on average, as 3 to 5
    assert heavy["chosen_ids"][:6] == [1, 1, 1, 101, 101, 201]
    assert heavy["prompt_ids"] == rows()[0]["prompt_ids"]

    bare = adverse(rows(), 1)
    assert {side: len(ids) for side, ids in bare.items()} == {
        "prompt_ids": 1,
        "chosen_ids": 128,
        "rejected_ids": 128,
    }


def test_tokens_of_a_pair_and_of_a_demonstration() -> None:
    from cases import logical_tokens, needed_tokens

    row = rows()[0]
    assert (needed_tokens("dpo", row), logical_tokens("dpo", row)) == (18, 28)
    assert (needed_tokens("sft", row), logical_tokens("sft", row)) == (13, 13)


def test_a_round_goes_forth_and_back(tmp_path: Path) -> None:
    from plan import Plan, Units

    plan = Plan(pairs_a_step=8, steps=3, gate_steps=20, short_gate_steps=3, arms=("trimtab", "trl-4"))
    units: list[Any] = list(Units(tmp_path, "dpo-hh", plan).rounds(best=2, rounds=2))
    names = [unit.name for unit in units[:6]]
    assert names == [
        *(f"round-1-a-{arm}" for arm in ("peak", "trimtab", "trl-4")),
        *(f"round-1-b-{arm}" for arm in ("trl-4", "trimtab", "peak")),
    ]
    assert len({unit.path(tmp_path) for unit in units}) == 12
    shipped = units[2].spec
    assert (shipped["micro_batch"], shipped["checkpointing"], shipped["cached_reference"]) == (4, True, False)
    assert shipped["model"] == shipped["reference"], "what is timed begins from the reference"


def test_the_gate_begins_from_a_policy_that_has_moved(tmp_path: Path) -> None:
    from plan import Plan, Units

    plan = Plan(pairs_a_step=8, steps=3, gate_steps=20, short_gate_steps=3, arms=("trimtab", "trl-4"))
    gate = {unit.name: unit for unit in Units(tmp_path, "dpo-hh", plan).gate(best=2)}
    assert list(gate) == [
        "gate-trimtab-float32",
        "gate-trimtab-bfloat16",
        "gate-trl-best-float32",
        "gate-trl-best-bfloat16",
        "gate-trl-4-float32",
    ]
    assert all(unit.spec["model"] != unit.spec["reference"] for unit in gate.values())
    assert gate["gate-trl-best-float32"].spec["micro_batch"] == 2


def test_a_disturbed_round_is_marked() -> None:
    from table import Half, _noisy

    def half(own: float, others: float) -> Half:
        return Half({"own": own, "others": others})

    quiet = [half(0.5, 0.02), half(0.49, 0.09)]
    rounds = {
        1: {"trimtab": quiet, "trl-best": quiet},
        2: {"trimtab": [half(0.5, 0.2), half(0.5, 0.0)], "trl-best": quiet},
        3: {"trimtab": quiet, "trl-best": [half(0.5, 0.0), half(0.02, 0.0)]},
    }
    assert _noisy(rounds) == {2: "others used 20 %", 3: "trl-best was kept waiting"}

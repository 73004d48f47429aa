"""The pure parts of benchmarks/training: counted operations, the gate's verdicts, the order of the arms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [BENCHMARKS / "training", BENCHMARKS / "trl", BENCHMARKS]
    monkeypatch.setattr(sys, "path", [*map(str, folders), *sys.path])


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


def apart(*distances: float) -> list[dict[str, float]]:
    """Steps so far from a curve of ones, above and below in turn."""
    return steps(*(1.0 + distance * (-1) ** index for index, distance in enumerate(distances)))


def test_the_bfloat16_gate_asks_who_is_further_away() -> None:
    from gate import bfloat16_verdict

    curve, near, far = steps(1.0, 2.0), steps(1.01, 1.98), steps(1.0, 1.97)
    assert bfloat16_verdict(near, far, curve).passed
    assert not bfloat16_verdict(far, near, curve).passed
    assert bfloat16_verdict(near, near, curve).passed, "no further is enough"


def test_the_bfloat16_gate_goes_by_all_steps_and_not_by_the_largest() -> None:
    from gate import bfloat16_verdict

    curve = apart(*[0.0] * 20)
    peak, steady = apart(*[0.01] * 19, 0.05), apart(*[0.03] * 20)
    found = bfloat16_verdict(peak, steady, curve)
    # sqrt((19 * 0.01^2 + 0.05^2) / 20) = 0.014832...
    assert found.passed and "1.5e-02 / 3.0e-02, ratio 0.49" in found.text
    assert "largest 5.0e-02 / 3.0e-02, last 5.0e-02 / 3.0e-02; trimtab is nearer at 19 steps" in found.text
    assert not bfloat16_verdict(steady, peak, curve).passed


def test_the_interval_of_the_ratio_holds_the_truth_about_as_often_as_it_says() -> None:
    import random

    from gate import ratio_interval

    generator = random.Random(1)
    held, trials, truth = 0, 40, 0.5
    for _ in range(trials):
        theirs = [abs(generator.gauss(0, 1)) for _ in range(20)]
        ours = [abs(generator.gauss(0, truth)) for _ in range(20)]
        low, high = ratio_interval(ours, theirs)
        assert low < high
        held += low <= truth <= high
    assert 0.7 * trials <= held < trials


def test_the_interval_keeps_the_steps_of_both_arms_together() -> None:
    from gate import ratio_interval

    hard = [0.1, 0.2, 3.0, 0.4, 0.05, 2.0, 0.7, 0.1]
    low, high = ratio_interval([distance / 2 for distance in hard], hard)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5), "which batches are drawn changes nothing"
    assert ratio_interval([0.0, 0.0], [0.0, 0.0]) == (1.0, 1.0)


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


def test_curves_grow_eightfold_in_one_thing_each() -> None:
    from curves import points

    found = {(point.curve, point.factor): point for point in points(8, 49152)}
    assert [found["vocabulary", factor].vocabulary for factor in (1, 2, 4, 8)] == [8192, 16384, 32768, 65536]
    assert [found["batch", factor].pairs for factor in (1, 2, 4, 8)] == [8, 16, 32, 64]
    for curve in ("response", "prompt"):
        sizes = [found[curve, factor].prompt + found[curve, factor].response for factor in (1, 2, 4, 8)]
        assert sizes[0] == 270 and sizes[-1] == 2048
        assert [found[curve, factor].pairs for factor in (1, 2, 4, 8)] == [8, 4, 2, 1]


def test_slopes_by_hand() -> None:
    from curves import exponent, slopes

    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)
    measured = [
        # The median goes by the middle one, so the outlier of the first point does not count.
        {"size": 1, "flops": 1e12, "seconds": [1.0, 9.0, 1.0], "beyond_mb": [50.0, 50.0, 50.0]},
        {"size": 8, "flops": 8e12, "seconds": [8.8, 8.8, 8.8], "beyond_mb": [50.0, 60.0, 40.0]},
    ]
    for one in measured:
        one["seconds_per_teraflop"] = [second / one["flops"] * 1e12 for second in one["seconds"]]  # type: ignore
    found = slopes(measured)
    assert found["time_spread"] == pytest.approx(0.1)
    assert found["time_exponent"] == pytest.approx(1.046, abs=1e-3)  # log(8.8) / log(8)
    assert found["memory_exponent"] == 0.0


def test_memory_of_a_point_is_what_the_steps_took_beyond_the_short_one(tmp_path: Path) -> None:
    import json

    import made
    from curves import Point, _figures, flops

    point = Point("batch", 1, 8, pairs=8, prompt=128, response=64, vocabulary=85)
    made.write_model(tmp_path / "models" / "85", "tiny", 85)
    short, warm = {"seconds": 9.0, "peak_bytes": 500_000_000}, {"seconds": 9.0, "peak_bytes": 600_000_000}
    result = {
        "steps": [short, warm, {"seconds": 3.0, "peak_bytes": 0}, {"seconds": 2.0, "peak_bytes": 0}],
        "baseline_bytes": 400_000_000,
        "peak_bytes": 620_000_000,
        "others": 0.3,
    }
    (tmp_path / "runs" / "batch-1").mkdir(parents=True)
    (tmp_path / "runs" / "batch-1" / "repeat-1.json").write_text(json.dumps(result))
    found = _figures(tmp_path, point)
    assert (found["beyond_mb"], found["held_mb"], found["imports_mb"]) == ([120.0], 500.0, 400.0)
    assert found["seconds"] == [2.0] and found["disturbed"] == 1
    # Body: 2 layers of 32 x (32 + 2 x 16) + 32 x 32 + 3 x 32 x 64 weights; 256 tokens; 28,800 keys seen
    # (128 x 129 / 2 + 2 x (64 x 128 + 64 x 65 / 2)); head 32 x 85 for 128 positions.
    body, keys = 2 * (32 * 64 + 32 * 32 + 3 * 32 * 64), 128 * 129 // 2 + 2 * (64 * 128 + 64 * 65 // 2)
    assert flops(tmp_path, point) == 8 * (6 * body * 256 + 12 * 2 * 32 * keys + 6 * 32 * 85 * 128)


def test_the_gpu_benchmark_without_a_gpu_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu

    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--out", str(tmp_path / "out"), "--results", str(tmp_path / "gpu.json")]
    )
    gpu.main()
    assert capsys.readouterr().out.startswith("no GPU")
    assert not list(tmp_path.iterdir())


def test_the_gpu_benchmark_names_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu

    assert gpu.their_version() is None, "the folder benchmarks/trl is no TRL"
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(gpu, "prepare", lambda *_: None)
    answers = {"peak-1": {"gflops": {"2 x 2 x 2": 1.0}}}
    monkeypatch.setattr(
        gpu, "one", lambda out, unit, seconds: answers.get(unit.name, "failed with 1: no such kernel")
    )
    found, left_out = gpu.run(tmp_path, ("tiny",), until=30)
    assert list(found) == ["dpo-tiny/peak-1"]
    assert left_out["dpo-tiny/trimtab-1"] == "failed with 1: no such kernel"
    assert left_out["dpo-tiny/trl-8-2"] == "TRL is not installed in this environment"
    assert left_out["decode-tiny/trimtab-1"] == left_out["sft-tiny/trimtab-1"] == "out of time"


def test_the_gpu_benchmark_compares_with_the_faster_micro_batch() -> None:
    from gpu import over_best

    def speeds(*values: float) -> list[dict[str, float]]:
        return [{"logical_tokens_per_second": value} for value in values]

    case = {"trimtab": speeds(30, 40), "trl-8": speeds(10, 10), "trl-32": speeds(15, 16)}
    assert over_best(case) == {"best": "trl-32", "ratios": [2.0, 2.5]}
    assert over_best({"trimtab": speeds(30)}) is None

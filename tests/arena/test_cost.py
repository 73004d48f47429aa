"""Sums charged by hand."""

import pytest

from trimtab.arena.cost import StageCost, duration, memory, method_costs, method_rows, stage_rows


def cost(stage, wall, memory_bytes=1, trained=0, generated=0):
    return StageCost(
        stage=stage, run=f"runs/{stage}", wall_s=wall, cpu_s=2 * wall, peak_memory_bytes=memory_bytes,
        tokens_trained=trained, tokens_generated=generated, device="cpu",
    )  # fmt: skip


STAGES = [
    cost("ppo", 1000, 5, 10, 7),
    cost("sft", 100, 3, 20),
    cost("reward", 10, 9, 30),
    cost("judge", 10_000, 99, 40),
    cost("reference", 1, 2),
    cost("dpo", 0.5, 4, 50),
    cost("measuring", 7e4, 50, 0, 60),
]


def test_each_method_pays_for_what_it_needs():
    sft, ppo, dpo = method_costs(STAGES)
    assert [sft.method, ppo.method, dpo.method] == ["sft", "ppo", "dpo"]
    assert (sft.wall_s, ppo.wall_s, dpo.wall_s) == (100, 1110, 101.5)
    assert (sft.cpu_s, ppo.cpu_s, dpo.cpu_s) == (200, 2220, 203)
    assert (ppo.tokens_trained, ppo.tokens_generated) == (60, 7)
    assert (dpo.tokens_trained, dpo.tokens_generated) == (70, 0)


def test_the_hungriest_stage_decides_the_memory():
    assert [method.peak_memory_bytes for method in method_costs(STAGES)] == [3, 9, 4]


def test_a_method_that_did_not_run_is_not_listed():
    assert [
        method.method for method in method_costs([cost("sft", 1), cost("reward", 1), cost("dpo", 1)])
    ] == [
        "sft",
        "dpo",
    ]


def test_rows_say_what_is_charged():
    rows = method_rows(STAGES)
    assert {len(row) for row in rows} == {7}
    ppo = next(row for row in rows if row[0] == "PPO")
    assert set(ppo[1].split(" + ")) == {"sft", "reward", "ppo"}
    assert ppo[2:] == ("18 min 30 s", "37 min 00 s", "0.00 GB", "60", "7")


def test_every_stage_has_its_row():
    rows = stage_rows(STAGES)
    assert [row[0] for row in rows[1:]] == [stage.stage for stage in STAGES]
    assert rows[1] == ("ppo", "runs/ppo", "16 min 40 s", "33 min 20 s", "0.00 GB", "10", "7", "cpu")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"), (48.34, "48.3 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (725, "12 min 05 s"),
        (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (6000, "1 h 40 min"), (7199, "2 h 00 min"),
    ],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_memory_is_decimal():
    assert memory(3_420_000_000) == "3.42 GB"

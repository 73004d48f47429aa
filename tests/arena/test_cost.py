"""Sums charged by hand."""

from dataclasses import replace

import pytest

from trimtab.arena.cost import (
    HumanWork,
    StageCost,
    cost_phrase,
    duration,
    human_rows,
    is_cost_of,
    memory,
    method_costs,
    method_rows,
    stage_rows,
)


def cost(stage, wall, memory_bytes=1, trained=0, generated=0, needs=None, device="cpu"):
    return StageCost(
        stage=stage, run=f"runs/{stage}", wall_s=wall, cpu_s=2 * wall, peak_memory_bytes=memory_bytes,
        tokens_trained=trained, tokens_generated=generated, device=device, needs=needs,
    )  # fmt: skip


STAGES = [
    cost("ppo", 1000, 5, 10, 7),
    cost("sft", 100, 3, 20),
    cost("reward", 10, 9, 30),
    cost("judge", 10_000, 99, 40),
    cost("reference", 1, None),
    cost("dpo", 0.5, 4, 50),
    cost("measuring", 7e4, None, 0, None),
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


def test_memory_of_the_host_stands_apart():
    stages = [replace(cost("sft", 1, 5), host_memory_bytes=30), cost("dpo", 1, None)]
    dpo = method_costs(stages)[1]
    assert (dpo.peak_memory_bytes, dpo.host_memory_bytes) == (5, 30)
    assert method_costs([cost("dpo", 1, None)])[0].peak_memory_bytes is None


def test_a_method_that_did_not_run_is_not_listed():
    assert [
        method.method for method in method_costs([cost("sft", 1), cost("reward", 1), cost("dpo", 1)])
    ] == [
        "sft",
        "dpo",
    ]


def told(*kept):
    """Stages whose runs say what they were made from."""
    stages = [
        cost("sft", 100, needs=()),
        cost("reward", 200, needs=("sft",)),
        cost("reference", 10, needs=()),
        cost("dpo", 90, needs=("sft", "reference")),
        cost("ppo", 700, needs=("sft", "reward")),
    ]
    return [stage for stage in stages if stage.stage in kept]


ALL = ("sft", "reward", "reference", "dpo", "ppo")


@pytest.mark.parametrize(
    ("kept", "method", "missing"),
    [
        (ALL, "ppo", ()),
        (ALL, "dpo", ()),
        (("sft", "reference", "dpo", "ppo"), "ppo", ("reward",)),
        (("reward", "reference", "dpo", "ppo"), "ppo", ("sft",)),
        (("reward", "reference", "dpo", "ppo"), "dpo", ("sft",)),
        (("sft", "dpo", "ppo"), "dpo", ("reference",)),
    ],
)
def test_a_stage_that_is_not_there_is_missed(kept, method, missing):
    stages = told(*kept)
    sums = {sum.method: sum for sum in method_costs(stages)}
    assert sums[method].missing == missing
    said = next(row for row in method_rows(stages) if row[0] == method.upper())[1]
    assert said.endswith(f"incomplete: without {missing[0]}") if missing else "incomplete" not in said


def test_no_phrase_without_all_stages():
    assert cost_phrase(told(*ALL), "dpo", "ppo") == "at 20\u00a0% of PPO's training time"
    assert cost_phrase(told(*ALL), "ppo", "dpo") == "at 5.0 times DPO's training time"
    for left_out in ("sft", "reward", "reference"):
        assert cost_phrase(told(*set(ALL) - {left_out}), "dpo", "ppo") == ""


def test_ppo_needs_a_reward_model_whatever_its_run_says():
    stages = [cost("dpo", 1, needs=()), cost("ppo", 2, needs=())]
    assert [sum.missing for sum in method_costs(stages)] == [("reward",), ()]
    assert cost_phrase([cost("dpo", 1), cost("ppo", 2)], "dpo", "ppo") == ""


def test_a_method_pays_for_what_it_was_made_from_and_for_nothing_else():
    stages = told("sft", "reward", "ppo")
    stages.append(cost("dpo", 90, needs=()))  # of a plain model, with a loss that reads no reference
    ppo, dpo = (sum for sum in method_costs(stages) if sum.method != "sft")
    assert (ppo.wall_s, dpo.wall_s, ppo.missing, dpo.missing) == (1000, 90, (), ())
    upon_dpo = [*told("sft", "reward", "reference", "dpo"), cost("ppo", 700, needs=("dpo", "reward"))]
    ppo = next(sum for sum in method_costs(upon_dpo) if sum.method == "ppo")
    assert (ppo.wall_s, ppo.missing) == (1100, ())
    again = [cost("dpo", 90, needs=("dpo first",))]
    assert method_costs(again)[0].missing == ("dpo first",)


@pytest.mark.parametrize("stage", ["sft", "reward", "reference", "dpo", "ppo"])
def test_no_phrase_across_devices(stage):
    stages = [replace(one, device="cuda") if one.stage == stage else one for one in told(*ALL)]
    assert cost_phrase(stages, "dpo", "ppo") == ""
    charged = [row for row in method_rows(stages) if stage in row[1].split(" + ") and len(row[1]) > 3]
    assert charged and all(set(row[-1].split("; ")) == {"cpu", "cuda"} for row in charged)


def test_a_cost_is_of_one_run_of_its_method():
    stages = [cost("dpo", 1)]
    assert is_cost_of(stages, "dpo", "elsewhere/runs/dpo/")
    assert not is_cost_of(stages, "dpo", "runs/dpo-2")
    assert not is_cost_of(stages, "ppo", "runs/dpo")


def test_human_work_is_told_by_who_learned_from_it():
    work = HumanWork(
        pairs=(("ppo", 1700), ("dpo", 1700), ("judge", 850)), shared=(("ppo", "dpo"),), held_out_pairs=244
    )
    assert human_rows(work, ["sft", "ppo", "dpo"]) == [
        ("for", "judged pairs", "the same file as"),
        ("PPO", "1,700", "DPO"),
        ("DPO", "1,700", "PPO"),
        ("the judge", "850", ""),
        ("the test of the judge", "244", ""),
    ]
    apart = HumanWork(pairs=(("dpo", 30),), held_out_pairs=5)
    assert human_rows(apart, ["ppo", "dpo"])[1:] == [
        ("PPO", "not known", ""),
        ("DPO", "30", ""),
        ("the test of the judge", "5", ""),
    ]


def test_rows_say_what_is_charged():
    rows = method_rows(STAGES)
    assert {len(row) for row in rows} == {9}
    ppo = next(row for row in rows if row[0] == "PPO")
    assert set(ppo[1].split(" + ")) == {"sft", "reward", "ppo"}
    assert ppo[2:] == ("18 min 30 s", "37 min 00 s", "0.00 GB", "", "60", "7", "cpu")


def test_every_stage_has_its_row():
    rows = stage_rows(STAGES)
    assert [row[0] for row in rows[1:]] == [stage.stage for stage in STAGES]
    assert rows[1] == ("ppo", "runs/ppo", "16 min 40 s", "33 min 20 s", "0.00 GB", "", "10", "7", "cpu")
    assert rows[5][4:6] == ("", "") and rows[5][7] == "0"  # the reference's memory was not measured apart
    assert rows[7][4:8] == ("", "", "0", "")  # nor measuring's, and its tokens were not counted


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (48.34, "48.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (6000, "1 h 40 min"),
        (7199, "2 h 00 min"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_memory_is_decimal():
    assert memory(3_420_000_000) == "3.42 GB"

"""The plumbing of the stages: schedules, learning steps, interruption, passes over packed rows."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from trimtab.data.batches import PackedRow
from trimtab.data.tokens import Example, Response
from trimtab.errors import Interrupted, RunError
from trimtab.model.device import Numerics
from trimtab.model.passes import over_rows, response_count, response_tokens
from trimtab.runs import checkpoint
from trimtab.runs.cost import Meter
from trimtab.train import loop
from trimtab.train.settings import OptimizerSettings


class Small(nn.Module):
    """A matrix, a bias and a norm's weight, all 1."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 3))
        self.bias = nn.Parameter(torch.ones(3))
        self.norm = nn.Parameter(torch.ones(3))


def optimizer(**changes: Any) -> OptimizerSettings:
    return OptimizerSettings(**{"learning_rate": 0.1, "warmup": 0.0, "schedule": "constant", **changes})


def learner(model: nn.Module, total: int = 10, **changes: Any) -> loop.Learner:
    return loop.Learner(model, optimizer(**changes), total)  # type: ignore[arg-type]


def give_gradients(model: nn.Module, *values: float) -> None:
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # 10 steps, 4 of them warm-up: 1/5 .. 4/5 of the rate, then six steps from the top.
        ("constant", [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.2, 0.4, 0.6, 0.8, 1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
    ],
)
def test_learning_rate(schedule: str, expected: list[float]) -> None:
    settings = optimizer(learning_rate=3.0, warmup=0.4, schedule=schedule)
    rates = [loop.learning_rate(settings, step, 10) for step in range(10)]
    assert rates == pytest.approx([3 * share for share in expected], abs=1e-6)


def test_a_single_step_is_taken_at_the_full_rate() -> None:
    assert loop.learning_rate(optimizer(schedule="linear", warmup=0.1), 0, 1) == 0.1


def test_step_clips_the_gradient_to_the_largest_norm() -> None:
    model = Small()
    taught = learner(model, max_grad_norm=0.5, beta1=0.0, beta2=0.0, epsilon=1.0)
    give_gradients(model, 3.0, 0.0, 4.0)  # norm sqrt(6 * 9 + 3 * 16) = sqrt(102)
    metrics = taught.step()
    assert metrics["grad_norm"] == pytest.approx(math.sqrt(102), rel=1e-6)
    assert metrics["learning_rate"] == 0.1
    # Without moments AdamW moves by rate * g / (|g| + epsilon), here with epsilon 1.
    clipped = 0.5 * 3 / math.sqrt(102)
    assert model.matrix[0, 0].item() == pytest.approx(1 - 0.1 * clipped / (clipped + 1), rel=1e-5)
    assert model.bias.tolist() == [1, 1, 1]
    assert model.matrix.grad is None and taught.steps == 1


def test_a_small_gradient_is_not_scaled_up() -> None:
    model = Small()
    taught = learner(model, max_grad_norm=100.0, beta1=0.0, beta2=0.0, epsilon=1.0)
    give_gradients(model, 1.0, 0.0, 0.0)
    taught.step()
    assert model.matrix[0, 0].item() == pytest.approx(1 - 0.1 / 2, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(bad: float) -> None:
    model = Small()
    taught = learner(model)
    give_gradients(model, 1.0, bad, 1.0)
    with pytest.raises(RunError, match="the gradient is not finite") as raised:
        taught.step()
    assert raised.value.where == "step 1" and "lower the learning rate" in raised.value.fix
    assert all(parameter.tolist() == torch.ones_like(parameter).tolist() for parameter in model.parameters())
    assert taught.steps == 0


def test_weight_decay_is_on_matrices_only() -> None:
    model = Small()
    taught = learner(model, weight_decay=0.5)
    give_gradients(model, 0.0, 0.0, 0.0)
    taught.step()
    torch.testing.assert_close(model.matrix.detach(), torch.full((2, 3), 1 - 0.1 * 0.5))
    assert model.bias.tolist() == [1, 1, 1] and model.norm.tolist() == [1, 1, 1]


def test_restored_moments_continue_bit_for_bit(tmp_path: Path) -> None:
    def several(taught: loop.Learner, model: nn.Module, first: int, last: int) -> None:
        for step in range(first, last):
            give_gradients(model, 0.1 * step, -0.3 + step, 1.0 / (step + 1))
            taught.step()

    unbroken, broken, resumed = Small(), Small(), Small()
    several(learner(unbroken, schedule="linear"), unbroken, 0, 6)
    first = learner(broken, schedule="linear")
    several(first, broken, 0, 3)
    checkpoint.save(tmp_path, {"step": 3}, first.tensors("small"))
    second = learner(resumed, schedule="linear")
    second.restore(SimpleNamespace(resumed_from=checkpoint.latest(tmp_path)), "small")  # type: ignore[arg-type]
    assert second.steps == 3
    before, after = first.tensors("small"), second.tensors("small")
    assert before.keys() == after.keys() == {"small", "small-optimizer"}
    assert len(before["small-optimizer"]) == 2 * 3 + 2
    for group in before:
        for name, value in before[group].items():
            assert torch.equal(value, after[group][name]), name
    several(second, resumed, 3, 6)
    for expected, value in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, value)


def test_seeds_are_stable_and_differ_by_path() -> None:
    assert loop.seed_for(0, "order") == 40874676933668353  # the first 7 bytes of SHA-256 of "0/order"
    paths: list[tuple[int | str, ...]] = [(), ("a",), ("a", 1), ("a", 2), ("b", 1), (1, "a"), ("a", 1, 1)]
    found = {loop.seed_for(seed, *path) for seed in (0, 1) for path in paths}
    assert len(found) == 2 * len(paths)
    assert all(0 <= seed < 2**63 for seed in found)


def test_one_ctrl_c_is_a_flag_and_a_second_one_stops() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), loop.interruptible() as pressed:
        assert not pressed()
        os.kill(os.getpid(), signal.SIGINT)
        assert pressed()
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_sigterm_is_a_flag_too() -> None:
    with loop.interruptible() as pressed:
        os.kill(os.getpid(), signal.SIGTERM)
        assert pressed()


class FakeRun:
    """A run that only counts."""

    def __init__(self, step: int = 0) -> None:
        self.step, self.folder, self.meter = step, Path("runs/x"), Meter()


def go(run: FakeRun, total: int, every: int, at: Callable[[int], None] = lambda step: None) -> list[int]:
    """The steps at which was saved; `at` is called within each step."""
    saved: list[int] = []
    for step, bar in loop.steps(run, total, name="sft", save=saved.append, save_every=every):  # type: ignore[arg-type]
        at(step)
        bar.advance()
    return saved


def test_steps_saves_now_and_then_and_at_the_end() -> None:
    assert go(FakeRun(), 7, 3) == [3, 6, 7]
    assert go(FakeRun(), 6, 3) == [3, 6]
    seen: list[int] = []
    assert go(FakeRun(step=4), 7, 3, seen.append) == [6, 7] and seen == [4, 5, 6]
    assert go(FakeRun(step=7), 7, 3) == []


def test_ctrl_c_saves_at_once_and_says_how_to_go_on() -> None:
    saved: list[int] = []
    run = FakeRun()
    with pytest.raises(Interrupted) as raised:
        for step, _ in loop.steps(run, 9, name="sft", save=saved.append, save_every=100):  # type: ignore[arg-type]
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)
    assert saved == [5] and "checkpoints" in run.meter.parts
    assert raised.value.found == "5 of 9 sft steps done" and "--resume" in raised.value.fix


def test_ctrl_c_at_any_moment_ends_with_a_saved_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the end of a step and the message, which must not speak of a step that was not saved."""
    answers = iter([False, True, True, True])
    monkeypatch.setattr(loop, "interruptible", lambda: _Asked(answers))
    saved: list[int] = []
    with pytest.raises(Interrupted) as raised:
        for _ in loop.steps(FakeRun(), 9, name="sft", save=saved.append, save_every=100):  # type: ignore[arg-type]
            pass
    assert saved and saved[-1] == int(raised.value.found.split()[0])


class _Asked:
    def __init__(self, answers: Any) -> None:
        self.answers = answers

    def __enter__(self) -> Callable[[], bool]:
        return lambda: next(self.answers)

    def __exit__(self, *_: object) -> None:
        pass


def test_ctrl_c_in_the_last_step_begins_nothing_else() -> None:
    saved: list[int] = []
    with pytest.raises(Interrupted) as raised:
        for step, _ in loop.steps(FakeRun(), 3, name="sft", save=saved.append, save_every=100):  # type: ignore[arg-type]
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
    assert saved == [3] and raised.value.found == "3 of 3 sft steps done"


def test_over_rows_keeps_the_order_of_the_examples(numerics: Numerics) -> None:
    lengths = [(3, 2, 5), (9, 1, 1), (1, 4, 2), (6, 3, 3), (2, 2, 8)]
    examples = []
    for index, (prompt, *responses) in enumerate(lengths):
        ids = [
            tuple(1000 * index + 100 * place + n for n in range(size)) for place, size in enumerate(responses)
        ]
        examples.append(Example(tuple(range(prompt)), tuple(Response(one, True) for one in ids)))

    def results(
        row_tokens: int, compute: Callable[[PackedRow], torch.Tensor], count: Any
    ) -> list[list[float]]:
        values = over_rows(examples, compute, count, row_tokens=row_tokens, numerics=numerics, name="test")
        return [value.tolist() for value in values]

    tokens = [[id for response in example.responses for id in response.ids] for example in examples]
    sums = [[float(sum(response.ids)) for response in example.responses] for example in examples]
    for row_tokens in (1, 12, 24, 10_000):
        assert results(row_tokens, lambda row: row.targets, response_tokens) == tokens
        assert (
            results(row_tokens, lambda row: row.sum_by_response(row.targets.float()), response_count) == sums
        )

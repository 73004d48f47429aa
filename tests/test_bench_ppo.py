"""What `make bench-ppo` does to trimtab's sampler: responses that end where a list says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tiny import tiny_llama
from trimtab.data.batches import pack
from trimtab.data.tokens import Example, Response
from trimtab.model.policy import response_logprobs
from trimtab.rollout.engine import Sampler
from trimtab.rollout.types import Sampling

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROMPTS = [(5, 9, 17, 4), (8, 3), (250, 44, 7, 7, 7, 12), (8, 3), (99, 98, 97)]
LENGTHS = [3, 8, 1, 6, 8]
STOP = 2


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS / "ppo")])
    import forced

    return forced


def test_responses_end_where_the_list_says_with_their_own_logprobs(forced: object) -> None:
    model = tiny_llama()
    model.set_attn_implementation("trimtab")
    seeds = [7, 3, 11, 20, 4]
    sampling = Sampling(max_new=8, stop_ids=(STOP,))
    with forced.lengths_of(dict(zip(seeds, LENGTHS, strict=True)), STOP):  # type: ignore[attr-defined]
        found = Sampler(model.eval(), batch=2).sample(PROMPTS, sampling, seeds)
    assert [len(one.response.ids) for one in found] == LENGTHS
    for one in found:
        assert (one.response.ids[-1] == STOP) == one.response.stopped
        assert STOP not in one.response.ids[:-1]
        row = pack([Example(one.prompt, (Response(one.response.ids, False),))])
        with torch.no_grad():
            expected = response_logprobs(model, row)
        torch.testing.assert_close(torch.tensor(one.logprobs), expected, atol=1e-5, rtol=1e-5)


def test_the_sampler_is_itself_again_afterwards(forced: object) -> None:
    model = tiny_llama()
    model.set_attn_implementation("trimtab")

    def answers() -> list[tuple[int, ...]]:
        drawn = Sampler(model.eval()).sample(PROMPTS, Sampling(max_new=8), [1, 2, 3, 4, 5])
        return [one.response.ids for one in drawn]

    before = answers()
    with forced.lengths_of(lambda _: 2, STOP):  # type: ignore[attr-defined]
        assert answers() != before
    assert answers() == before


def test_the_recorded_lengths_are_half_of_the_limit_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS / "ppo")])
    import lengths

    every = lengths.recorded(lengths.COUNT)
    assert max(every) == lengths.LIMIT and min(every) >= 1
    assert sum(every) / len(every) == pytest.approx(lengths.LIMIT / 2, rel=0.05)

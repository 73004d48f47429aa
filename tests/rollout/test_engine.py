"""The sampler against the packed log-probability path and against transformers' own generation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import PreTrainedModel

from tiny import CONTEXT, VOCABULARY, tiny_gpt2, tiny_llama, tiny_qwen2, tiny_tokenizer
from trimtab.data.batches import pack
from trimtab.errors import ConfigError, DataError, ModelError
from trimtab.model.policy import response_logprobs
from trimtab.rollout import engine
from trimtab.rollout.engine import Sampler
from trimtab.rollout.sample import Drawn, draw
from trimtab.rollout.slots import Slots, bucket
from trimtab.rollout.types import Rollout, Sampling

LENGTHS = [5, 1, 12, 7, 3, 9, 2, 30]
KINDS = {"llama": tiny_llama, "qwen2": tiny_qwen2, "gpt2": tiny_gpt2}
Build = Callable[..., PreTrainedModel]


@pytest.fixture(params=KINDS, scope="module")
def build(request: pytest.FixtureRequest) -> Build:
    """One kind of tiny model."""
    kind: Build = KINDS[request.param]
    return kind


def trimmed(build: Build, **changes: object) -> PreTrainedModel:
    model = build(**changes)
    model.set_attn_implementation("trimtab")
    return model


def some_prompts(lengths: list[int] = LENGTHS) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(7)
    return [tuple(torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()) for n in lengths]


def responses(rollouts: list[Rollout]) -> list[tuple[int, ...]]:
    return [rollout.response.ids for rollout in rollouts]


# A token in ten stops a row, so that rows end at different times and the store is compacted.
OFTEN = tuple(range(0, VOCABULARY, 10))
SAMPLING = Sampling(max_new=24, stop_ids=OFTEN)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_packed_path(build: Build, temperature: float) -> None:
    model, prompts = trimmed(build), some_prompts()
    sampling = Sampling(max_new=24, temperature=temperature, stop_ids=OFTEN)
    rollouts = Sampler(model).sample(prompts, sampling, range(len(prompts)))
    row = pack([rollout.example for rollout in rollouts])
    with torch.no_grad():
        expected = response_logprobs(model, row, temperature=temperature)
    sampled = torch.tensor([value for rollout in rollouts for value in rollout.logprobs])
    assert len({len(rollout.logprobs) for rollout in rollouts}) > 3, "rows should end at different steps"
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("penalty", "batch"), [(1.0, None), (1.3, 5)])
def test_greedy_is_what_transformers_generates(build: Build, penalty: float, batch: int | None) -> None:
    """With fewer rows than prompts what a request has seen follows it from row to row."""
    prompts = some_prompts(LENGTHS * 2)
    greedy = Sampling(max_new=16, temperature=0, repetition_penalty=penalty, stop_ids=(2, 40, 41))
    rollouts = Sampler(trimmed(build), batch=batch).sample(prompts, greedy, [0] * len(prompts))
    theirs = build()
    theirs.set_attn_implementation("sdpa")
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids = torch.tensor([prompt])
        whole = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            repetition_penalty=penalty,
            max_new_tokens=16,
            eos_token_id=[2, 40, 41],
            pad_token_id=0,
        )
        assert rollout.response.ids == tuple(whole[0, len(prompt) :].tolist())
        assert rollout.prompt == prompt


def test_a_request_does_not_depend_on_its_neighbours(build: Build) -> None:
    model, prompts = trimmed(build), some_prompts()
    seeds = [100 + index for index in range(len(prompts))]
    together = Sampler(model).sample(prompts, SAMPLING, seeds)
    alone = [
        Sampler(model).sample([prompt], SAMPLING, [seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    backwards = Sampler(model).sample(prompts[::-1], SAMPLING, seeds[::-1])[::-1]
    in_threes = Sampler(model, batch=3).sample(prompts, SAMPLING, seeds)
    assert responses(alone) == responses(backwards) == responses(in_threes) == responses(together)
    other_seeds = Sampler(model).sample(prompts, SAMPLING, [seed + 1 for seed in seeds])
    assert responses(other_seeds) != responses(together)


def test_prefill_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = trimmed(tiny_llama), some_prompts()
    seeds = range(len(prompts))
    whole = Sampler(model).sample(prompts, SAMPLING, seeds)
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 12)  # less than the longest prompt
    assert responses(Sampler(model).sample(prompts, SAMPLING, seeds)) == responses(whole)


class Steps:
    """What goes through a model: the tokens of each prefill, and rows and running requests of each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefilled: list[list[tuple[int, ...]]] = []
        self.decoded: list[tuple[int, int]] = []
        prefill, decode = engine._Decoder.prefill, engine._Decoder.decode

        def counted_prefill(decoder: engine._Decoder, prompts: Any, *rest: Any) -> Any:
            self.prefilled.append(list(prompts))
            return prefill(decoder, prompts, *rest)

        def counted_decode(decoder: engine._Decoder, slots: Slots) -> Any:
            self.decoded.append((slots.rows, len(slots.requests)))
            return decode(decoder, slots)

        monkeypatch.setattr(engine._Decoder, "prefill", counted_prefill)
        monkeypatch.setattr(engine._Decoder, "decode", counted_decode)


def test_ended_rows_leave_at_once_and_waiting_prompts_take_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = Steps(monkeypatch)
    model, prompts = trimmed(tiny_llama), some_prompts(LENGTHS * 4)
    rollouts = Sampler(model, batch=8).sample(prompts, SAMPLING, range(len(prompts)))
    drawn_behind_the_first = sum(len(rollout.response.ids) - 1 for rollout in rollouts)
    assert sum(running for _, running in steps.decoded) == drawn_behind_the_first
    assert all(rows == min(bucket(running), 8) for rows, running in steps.decoded)
    assert len(steps.prefilled) > len(prompts) // 8, "rows should be filled again before all have ended"
    together = Sampler(model, batch=len(prompts)).sample(prompts, SAMPLING, range(len(prompts)))
    assert responses(together) == responses(rollouts)
    for one, other in zip(together, rollouts, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_samples_of_one_prompt_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (short, long) = trimmed(tiny_llama), some_prompts([4, 9])
    prompts, seeds = [long, short, long, long, short, long], range(6)
    alone = [
        Sampler(model).sample([prompt], SAMPLING, [seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    steps = Steps(monkeypatch)
    assert responses(Sampler(model).sample(prompts, SAMPLING, seeds)) == responses(alone)
    assert steps.prefilled == [[short, long]]


def test_the_same_batch_gives_the_same_bits() -> None:
    model, prompts = trimmed(tiny_llama), some_prompts(LENGTHS * 3)
    first, second = (
        Sampler(model, autocast=torch.bfloat16, batch=7).sample(prompts, SAMPLING, range(len(prompts)))
        for _ in range(2)
    )
    assert first == second


def test_buckets_hold_their_rows_and_little_more() -> None:
    sizes = [bucket(rows) for rows in range(1, 300)]
    assert all(rows <= size <= max(1.5 * rows, rows + 1) for rows, size in enumerate(sizes, start=1))
    assert sizes == sorted(sizes) and len(set(sizes)) == 17


def test_the_stop_token_ends_a_response_and_is_kept() -> None:
    model, prompts = trimmed(tiny_llama), some_prompts([4, 4, 6])
    free = Sampler(model).sample(prompts, Sampling(max_new=12), range(3))
    for rollout in free:
        assert not rollout.response.stopped
        assert len(rollout.response.ids) == len(rollout.logprobs) == 12
    stop = free[0].response.ids[5]
    first = [ids.index(stop) + 1 if stop in ids else 12 for ids in responses(free)]
    stopped = Sampler(model).sample(prompts, Sampling(max_new=12, stop_ids=(stop,)), range(3))
    for before, after, length in zip(free, stopped, first, strict=True):
        assert after.response.ids == before.response.ids[:length]
        assert after.logprobs == pytest.approx(before.logprobs[:length], abs=1e-6)
        assert after.response.stopped == (stop in before.response.ids)
    assert first[0] <= 6


def test_a_stop_token_drawn_at_the_limit_has_stopped_the_response() -> None:
    model, prompts = trimmed(tiny_llama), some_prompts([4])
    ids = Sampler(model).sample(prompts, Sampling(max_new=3), [0])[0].response.ids
    last = Sampler(model).sample(prompts, Sampling(max_new=3, stop_ids=ids[2:]), [0])[0].response
    assert last.ids == ids
    assert last.stopped


def test_first_tokens_have_the_frequencies_of_the_softmax() -> None:
    model, draws = trimmed(tiny_llama, vocab_size=12, pad_token_id=None), 3000
    prompt = (3, 5, 8)
    rollouts = Sampler(model, batch=500).sample(
        [prompt] * draws, Sampling(max_new=1, temperature=0.8), range(draws)
    )
    counts = torch.tensor([rollout.response.ids[0] for rollout in rollouts]).bincount(minlength=12)
    theirs = tiny_llama(vocab_size=12, pad_token_id=None)
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        logits = theirs(torch.tensor([prompt])).logits[0, -1].double()
    expected = (logits / 0.8).softmax(-1) * draws
    assert chisquare(counts.tolist(), expected.tolist()).pvalue > 0.01


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bfloat16_is_near_float32(weights: torch.dtype) -> None:
    model, prompts = trimmed(tiny_llama), some_prompts()
    autocast = torch.bfloat16 if weights is torch.float32 else None
    rollouts = Sampler(model.to(weights), autocast=autocast).sample(prompts, SAMPLING, range(len(prompts)))
    row = pack([rollout.example for rollout in rollouts])
    with torch.no_grad():
        exact = response_logprobs(model.float(), row)
    sampled = torch.tensor([value for rollout in rollouts for value in rollout.logprobs])
    assert (sampled - exact).abs().max() < 0.1
    assert (sampled - exact).abs().max() > 1e-5, "nothing was computed in bfloat16"


def test_training_goes_on_after_sampling_inside_its_autocast() -> None:
    model, prompts = trimmed(tiny_llama).train(), some_prompts()
    model.lm_head.eval()
    with torch.autocast("cpu", torch.bfloat16):
        rollouts = Sampler(model, autocast=torch.bfloat16).sample(prompts, SAMPLING, range(len(prompts)))
        (-response_logprobs(model, pack([rollout.example for rollout in rollouts])).mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.training and model.model.layers[0].training
    assert not model.lm_head.training


def test_the_callers_autocast_does_not_change_the_numbers() -> None:
    model, prompts = trimmed(tiny_llama), some_prompts()
    plain = Sampler(model).sample(prompts, SAMPLING, range(len(prompts)))
    with torch.autocast("cpu", torch.bfloat16):
        assert Sampler(model).sample(prompts, SAMPLING, range(len(prompts))) == plain


def test_autograd_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tracked: list[bool] = []

    def watched(logits: torch.Tensor, *arguments: Any) -> Drawn:
        tracked.append(logits.requires_grad)
        return draw(logits, *arguments)

    monkeypatch.setattr(engine, "draw", watched)
    Sampler(trimmed(tiny_llama)).sample(some_prompts([4]), Sampling(max_new=3), [0])
    assert tracked == [False] * 3


def test_dropout_is_off_while_sampling() -> None:
    model, prompts = trimmed(tiny_gpt2), some_prompts()
    evaluated = Sampler(model).sample(prompts, SAMPLING, range(len(prompts)))
    assert Sampler(model.train()).sample(prompts, SAMPLING, range(len(prompts))) == evaluated
    assert all(module.training for module in model.modules())


def test_weights_are_read_anew_at_every_call_even_inside_one_autocast() -> None:
    model, prompts = trimmed(tiny_llama), some_prompts()
    sampler = Sampler(model, autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        before = sampler.sample(prompts, SAMPLING, range(len(prompts)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1.5)
        after = sampler.sample(prompts, SAMPLING, range(len(prompts)))
    assert responses(after) != responses(before)
    assert after == Sampler(model, autocast=torch.bfloat16).sample(prompts, SAMPLING, range(len(prompts)))


def test_the_head_is_float32_under_autocast() -> None:
    model, prompts = trimmed(tiny_llama, num_hidden_layers=0), some_prompts()
    exact = Sampler(model).sample(prompts, SAMPLING, range(len(prompts)))
    rounded = Sampler(model, autocast=torch.bfloat16).sample(prompts, SAMPLING, range(len(prompts)))
    assert [one.response for one in rounded] == [one.response for one in exact]
    for one, other in zip(rounded, exact, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_progress_counts_every_response_once() -> None:
    ended: list[int] = []
    prompts = some_prompts()
    sampler = Sampler(trimmed(tiny_llama), batch=3, progress=ended.append)
    sampler.sample(prompts, SAMPLING, range(len(prompts)))
    assert sum(ended) == len(prompts)
    assert min(ended) > 0
    assert len(ended) > 3, "told as they end, not at the end of a group"


def test_no_prompts_give_no_rollouts() -> None:
    assert Sampler(trimmed(tiny_llama)).sample([], SAMPLING, []) == []


def test_what_cannot_be_sampled_is_refused() -> None:
    sampler = Sampler(trimmed(tiny_gpt2))
    with pytest.raises(DataError, match="prompt 1"):
        sampler.sample([(3,), ()], SAMPLING, [0, 1])
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        sampler.sample([(3,), (4,)], SAMPLING, [0])
    with pytest.raises(ModelError, match=f"{CONTEXT} positions"):
        sampler.sample([(3,), (4,) * (CONTEXT - 23)], SAMPLING, [0, 1])
    with pytest.raises(ConfigError, match="batch"):
        Sampler(trimmed(tiny_gpt2), batch=0)


def test_a_prompt_and_response_may_fill_the_model_to_the_last_position() -> None:
    (rollout,) = Sampler(trimmed(tiny_gpt2)).sample([(4,) * (CONTEXT - 4)], Sampling(max_new=4), [0])
    assert len(rollout.response.ids) == 4


def test_short_rows_decode_in_larger_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    made = engine.KeyValueStore

    def counted(count: int, *rest: Any) -> Any:
        rows.append(count)
        return made(count, *rest)

    monkeypatch.setattr(engine, "KeyValueStore", counted)
    monkeypatch.setattr(engine, "DECODE_POSITIONS", 400)
    model = trimmed(tiny_llama)
    for longest in (8, 2, 90):
        Sampler(model).sample([(3,) * longest] * 150, Sampling(max_new=2), range(150))
    assert rows == [40, 100, 32]  # the fewest rows where few would fit


TOKENIZER = tiny_tokenizer()


def text_of(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=True))


def test_a_stop_string_ends_a_response_at_the_token_that_completes_it() -> None:
    """Over several tokens or within one; the others draw on, and rows are filled again."""
    model, prompts = trimmed(tiny_llama), some_prompts(LENGTHS * 2)
    seeds, sampling = range(len(prompts)), Sampling(max_new=24, stop_ids=(7,))
    free = Sampler(model).sample(prompts, sampling, seeds)
    texts = [text_of(ids) for ids in responses(free)]
    # Of 3, 2 and 1 characters, from the whole ones of random bytes; and what is within one token.
    strings = (
        *(re.findall(f"[^\ufffd]{{{4 - size}}}", texts[size])[-1] for size in (1, 2, 3)),
        text_of([299])[1:],
    )
    stopping = replace(sampling, stop_strings=strings)
    found = Sampler(model, batch=3, decode=text_of).sample(prompts, stopping, seeds)
    lengths = []
    for before, after in zip(free, found, strict=True):
        ids = before.response.ids
        ends = [n for n in range(1, len(ids) + 1) if any(one in text_of(ids[:n]) for one in strings)]
        assert after.response.ids == ids[: ends[0] if ends else len(ids)]
        assert after.response.stopped == (bool(ends) or before.response.stopped)
        assert after.logprobs == pytest.approx(before.logprobs[: len(after.logprobs)], abs=1e-5)
        lengths.append(len(after.response.ids))
    assert len(set(lengths)) > 4 and min(lengths) < 10 and max(lengths) == 24


def test_a_stop_string_at_the_limit_has_stopped_the_response() -> None:
    model, prompts = trimmed(tiny_llama), some_prompts([4])
    ids = Sampler(model).sample(prompts, Sampling(max_new=5), [0])[0].response.ids
    stopping = Sampling(max_new=5, stop_strings=("!",))
    sampler = Sampler(model, decode=lambda given: "." * (len(given) - 1) + "!" * (given[-1] == ids[4]))
    (last,) = sampler.sample(prompts, stopping, [0])
    assert ids[4] not in ids[:4] and last.response.ids == ids and last.response.stopped


def test_stop_strings_that_cannot_be_are_refused() -> None:
    stopping = Sampling(stop_strings=("###",))
    for refused in (
        lambda: Sampler(trimmed(tiny_gpt2)).sample([(3,)], stopping, [0]),
        lambda: Sampler(trimmed(tiny_gpt2)).stream((3,), stopping, 0),
        lambda: Sampling(stop_strings=("a", "")),
        lambda: Sampling(stop_strings=("\ufffd",)),
    ):
        with pytest.raises(ConfigError, match="stop_strings"):
            refused()


@pytest.mark.parametrize(
    "sampling",
    [
        SAMPLING,
        Sampling(max_new=24),
        Sampling(max_new=1),
        Sampling(max_new=24, temperature=0, repetition_penalty=1.3),
        Sampling(max_new=24, temperature=0.7, top_k=50, top_p=0.9, stop_strings=("e", " t")),
    ],
)
def test_a_stream_gives_what_sampling_gives(build: Build, sampling: Sampling) -> None:
    """Though it draws alone, and they together; and bit for bit in bfloat16 where both draw alone."""
    model, prompts = trimmed(build), some_prompts()
    sampler = Sampler(model, decode=text_of)
    expected = responses(sampler.sample(prompts, sampling, range(len(prompts))))
    found = [tuple(sampler.stream(prompt, sampling, seed)) for seed, prompt in enumerate(prompts)]
    assert found == expected
    rounded = Sampler(model, autocast=torch.bfloat16, decode=text_of)
    (alone,) = responses(rounded.sample(prompts[:1], sampling, [5]))
    assert tuple(rounded.stream(prompts[0], sampling, 5)) == alone


def test_a_stream_gives_each_id_before_the_next_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def watched(*arguments: Any) -> Drawn:
        found = draw(*arguments)
        drawn.append(int(found.tokens))
        return found

    monkeypatch.setattr(engine, "draw", watched)
    stream = Sampler(trimmed(tiny_llama)).stream((4, 8), Sampling(max_new=5), 0)
    assert drawn == []
    found: list[int] = []
    for token in stream:
        found.append(token)
        assert found == drawn
    assert len(found) == 5


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_between_two_ids_of_a_stream_all_is_as_the_caller_left_it(autocast: torch.dtype | None) -> None:
    model = trimmed(tiny_gpt2).train()
    model.lm_head.eval()
    sampler = Sampler(model, autocast=autocast)
    stream = sampler.stream((4, 8), Sampling(max_new=5), 0)
    for taken in range(4):
        assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        assert model.training and not model.lm_head.training and model.transformer.h[0].training
        if taken < 3:
            next(stream)
    stream.close()
    assert model.training and torch.is_grad_enabled()


def test_a_stream_refuses_at_once_what_cannot_be_sampled() -> None:
    sampler = Sampler(trimmed(tiny_gpt2))
    with pytest.raises(DataError, match="prompt 0"):
        sampler.stream((), SAMPLING, 0)
    with pytest.raises(ModelError, match=f"{CONTEXT} positions"):
        sampler.stream((4,) * CONTEXT, SAMPLING, 0)

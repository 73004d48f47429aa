"""Answers and verdicts: the KL against another path, whose text is whose, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tiny import tiny_llama, tiny_tokenizer
from trimtab import formats
from trimtab.arena.held_out import read_held_out
from trimtab.arena.jury import load_jury
from trimtab.arena.matches import judge_comparisons, play_matches
from trimtab.arena.play import divergence, seeds
from trimtab.arena.settings import CompareSettings
from trimtab.arena.tally import tally
from trimtab.data.tokens import Limits, Response
from trimtab.model import scalar
from trimtab.model.device import Numerics
from trimtab.model.load import load_tokenizer
from trimtab.model.policy import Policy, load_policy
from trimtab.model.save import save_model
from trimtab.records import Comparison, Verdict
from trimtab.rollout.types import Rollout, Sampling

CPU = Numerics(torch.device("cpu"), None)
GREEDY = Sampling(max_new=5, temperature=0)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    tiny_llama(seed=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def policies(model_folder: Path, other_folder: Path) -> tuple[Policy, Policy]:
    first, second = (
        load_policy(str(one), CPU, bytes_per_parameter=4) for one in (model_folder, other_folder)
    )
    return first, second


def prompts(*texts: str) -> list[formats.Row[Any]]:
    return [formats.Row(text, "p.jsonl", line) for line, text in enumerate(texts, start=1)]


@pytest.mark.parametrize("row_tokens", [1, 10_000])
def test_divergence_is_the_kl_over_the_vocabulary_summed_over_tokens(
    row_tokens: int, policies: tuple[Policy, Policy], model_folder: Path, other_folder: Path
) -> None:
    answers = [((5, 9, 17), (20, 30, 2)), ((40, 41), (7,)), ((8, 8, 8, 8), (11, 12, 13, 14, 15))]
    rollouts = [Rollout(prompt, Response(ids, ids[-1] == 2), ()) for prompt, ids in answers]
    found = divergence(*policies, rollouts, row_tokens=row_tokens, name="test")
    plain = [
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32).eval()
        for one in (model_folder, other_folder)
    ]
    for (prompt, ids), nats in zip(answers, found, strict=True):
        with torch.no_grad():
            p, q = (
                model(torch.tensor([[*prompt, *ids]]))
                .logits[0, len(prompt) - 1 : -1]
                .double()
                .log_softmax(-1)
                for model in plain
            )
        assert nats == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4) and nats > 0.01


def test_a_policy_does_not_diverge_from_itself(policies: tuple[Policy, Policy]) -> None:
    rollouts = [Rollout((5, 9), Response((20, 30), False), ())]
    assert divergence(policies[0], policies[0], rollouts, row_tokens=99, name="test") == [0.0]


def test_seeds_are_the_same_for_every_policy_and_differ_by_prompt() -> None:
    assert seeds(3, 5)[:4] == seeds(3, 4)
    assert len({*seeds(3, 50), *seeds(4, 50)}) == 100


def test_left_writes_a_and_right_writes_b(model_folder: Path, other_folder: Path) -> None:
    left, right = str(model_folder), str(other_folder)
    rows = prompts("one", "two two", "three")
    forward = play_matches(left, right, rows, GREEDY, seed=0, device="cpu")
    backward = play_matches(right, left, rows, GREEDY, seed=0, device="cpu")
    assert [one.prompt for one in forward] == ["one", "two two", "three"]
    for there, back in zip(forward, backward, strict=True):
        assert (there.a, there.source_a) == (back.b, back.source_b) and there.source_a == left
        assert (there.b, there.source_b) == (back.a, back.source_a) and there.a != there.b
        assert there.verdict is None


def test_a_model_against_itself_draws_afresh_for_each_side(model_folder: Path) -> None:
    sampling = Sampling(max_new=8)
    (match,) = play_matches(
        str(model_folder), str(model_folder), prompts("one"), sampling, seed=0, device="cpu"
    )
    assert match.a != match.b


def test_the_judge_prefers_the_higher_reward(model_folder: Path, tmp_path: Path) -> None:
    scorer = scalar.new_scorer(
        str(model_folder), CPU, torch.Generator().manual_seed(3), bytes_per_parameter=4
    )
    save_model(scorer.model, scorer.codec, tmp_path / "judge")
    texts = [("aaa", "bbb"), ("bbb", "aaa"), ("same", "same"), ("<|im_end|>", "fine")]
    rows = [
        formats.Row(Comparison(prompt="say", a=a, b=b, source_a="l", source_b="r"), "m.jsonl", line)
        for line, (a, b) in enumerate(texts, start=1)
    ]
    judged, left_out = judge_comparisons(rows, load_jury((str(tmp_path / "judge"),), CPU))

    def reward(text: str) -> float:
        """By transformers' own classifier, whose score is read at the last token."""
        codec = scorer.codec
        ids = [*codec.encode_prompt("say", 99)[0], *codec.encode_response("say", text, 99).ids]
        with torch.no_grad():
            return float(scorer.model(torch.tensor([ids])).logits)

    scorer.model.set_attn_implementation("sdpa")
    scorer.model.config.pad_token_id = scorer.codec.pad_id
    winner = "a" if reward("aaa") > reward("bbb") else "b"
    loser = "b" if winner == "a" else "a"
    preferred = [one.verdict.preferred for one in judged if one.verdict]
    assert preferred == [winner, loser, "tie"]
    assert [where for where, _ in left_out] == ["m.jsonl:4"] and "control token" in left_out[0][1]
    assert all(one.verdict and one.verdict.judge == str(tmp_path / "judge") for one in judged)


def test_tally_counts_sources_and_ties() -> None:
    def judged(preferred: Any, **sources: str) -> Comparison:
        return Comparison(prompt="p", a="x", b="y", verdict=Verdict(preferred=preferred), **sources)

    sides = {"source_a": "l", "source_b": "r"}
    found = tally(
        [
            judged("a", **sides),
            judged("b", **sides),
            judged("b", **sides),
            judged("tie", **sides),
            judged("b"),
        ]
    )
    assert found == {"l": 1, "r": 2, "tie": 1, "b": 1}


def test_held_out_prompts_are_answered_once_and_all_pairs_are_kept(
    model_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "held_out.jsonl"
    rows = [("one", "a"), ("two", "b"), ("one ", "c"), ("bad <|im_end|>", "d"), ("three", "e"), ("four", "f")]
    path.write_text("".join(f'{{"prompt": "{p}", "chosen": "{c}", "rejected": "z"}}\n' for p, c in rows))
    tree = {
        "policies": {"a": "x", "b": "y"},
        "reference": "x",
        "judge": "j",
        "held_out": str(path),
        "prompts": 4,
    }
    found = read_held_out(
        CompareSettings(**tree), load_tokenizer(str(model_folder)), Limits(prompt=64, response=12)
    )
    assert found.prompts == ["one", "two", "three"], "the first four, less the one that cannot be encoded"
    assert len(found.examples) == 3 and len(found.pairs) == 6
    assert [found.codec.tokenizer.decode(one.prompt) for one in found.examples] == ["one", "two", "three"]

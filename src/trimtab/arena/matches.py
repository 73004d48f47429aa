"""Answers and verdicts as records: unjudged comparisons from two models, verdicts by a reward model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trimtab import formats
from trimtab.arena.jury import Jury
from trimtab.arena.play import seeds
from trimtab.data.tokens import Example, Limits, encode_prompts
from trimtab.errors import DataError
from trimtab.judges.judge import Unreadable
from trimtab.model.device import choose
from trimtab.model.load import load_tokenizer
from trimtab.model.policy import Policy, load_policy
from trimtab.records import Comparison, Message, Prompt
from trimtab.rollout.answers import answer, told
from trimtab.rollout.types import Sampling

FROZEN_BYTES = 4
LIMITS = Limits(prompt=1024, response=1024)
"""Of what is only answered, not trained on."""


def answer_texts(
    source: str, rows: Sequence[formats.Row[Prompt]], sampling: Sampling, *, seed: int, device: str
) -> list[dict[str, object]]:
    """One answer to each prompt: its text, tokens, log-probability in nats, and whether it stopped.

    Raises:
        DataError: a prompt is too long for `LIMITS`, or holds control tokens.
    """
    policy, examples = _asked(source, rows, device)
    stopping = replace(sampling, stop_ids=(policy.codec.stop_id,))
    rollouts = answer(policy, examples, stopping, seeds(seed, len(examples)), name=Path(source).name)
    return [
        {
            "response": policy.codec.decode_response(row.record, rollout.response.ids),
            "tokens": len(rollout.response.ids),
            "stopped": rollout.response.stopped,
            "logprob": sum(rollout.logprobs),
        }
        for row, rollout in zip(rows, rollouts, strict=True)
    ]


def answer_question(
    source: str, question: str, sampling: Sampling, *, seed: int, device: str
) -> dict[str, object]:
    """Answer one person's question: as a chat, or as text to continue where the model has no template."""
    return answer_texts(source, [_question(source, question)], sampling, seed=seed, device=device)[0]


def tell_answer(source: str, question: str, sampling: Sampling, *, seed: int, device: str) -> Iterator[str]:
    """The text that `answer_question` gives, in pieces as the model writes it."""
    row = _question(source, question)
    policy, (example,) = _asked(source, [row], device)
    stopping = replace(sampling, stop_ids=(policy.codec.stop_id,))
    return told(policy, row.record, example.prompt, stopping, *seeds(seed, 1))


def _question(source: str, question: str) -> formats.Row[Prompt]:
    chats = load_tokenizer(source).tokenizer.chat_template is not None
    return formats.Row((Message("user", question),) if chats else question, "the prompt", 0)


def _asked(source: str, rows: Sequence[formats.Row[Prompt]], device: str) -> tuple[Policy, Sequence[Example]]:
    """The model, and each prompt's ids."""
    policy = load_policy(source, choose(device, "auto"), bytes_per_parameter=FROZEN_BYTES)
    encoded = encode_prompts(policy.codec, rows, LIMITS)
    if encoded.left_out:
        where, reason = encoded.left_out[0]
        raise DataError("the prompt cannot be used", where=where, found=reason, fix="leave it out")
    return policy, encoded.examples


def play_matches(
    left: str, right: str, rows: Sequence[formats.Row[Prompt]], sampling: Sampling, *, seed: int, device: str
) -> list[Comparison]:
    """Both models answer every prompt, each with seeds of its own."""
    first = answer_texts(left, rows, sampling, seed=seed, device=device)
    second = answer_texts(right, rows, sampling, seed=seed + 1, device=device)
    return [
        Comparison(
            prompt=row.record,
            a=str(a["response"]),
            b=str(b["response"]),
            source_a=left,
            source_b=right,
            stopped_a=bool(a["stopped"]),
            stopped_b=bool(b["stopped"]),
        )
        for row, a, b in zip(rows, first, second, strict=True)
    ]


def judge_comparisons(
    rows: Sequence[formats.Row[Comparison]], jury: Jury
) -> tuple[list[Comparison], list[tuple[str, str]]]:
    """Each comparison with the jury's verdict; and (where, reason) of those without one."""
    verdicts = jury.verdicts([row.record for row in rows])
    judged, left_out = [], []
    for row, verdict in zip(rows, verdicts, strict=True):
        if isinstance(verdict, Unreadable):
            left_out.append((row.where, verdict.reason))
        else:
            judged.append(row.record.judged(verdict))
    return judged, left_out

"""What a policy answers to dev prompts while it is being trained: kept in samples.jsonl."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.data.tokens import Example
from trimtab.model.policy import Policy
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Rollout, Sampling
from trimtab.runs.run import Run
from trimtab.train import loop
from trimtab.train.settings import StageSettings


def answer_samples(
    policy: Policy, dev_set: Sequence[Example], settings: StageSettings, run: Run, *, step: int
) -> None:
    """Answer the first few dev prompts and keep the answers."""
    with run.meter.timed("evaluation"):
        answers = answer_first(policy, dev_set, settings)
    run.sample(step, [as_row(policy, one) for one in answers])


def answer_first(policy: Policy, dev_set: Sequence[Example], settings: StageSettings) -> list[Rollout]:
    """One answer to each of the first few dev prompts, sampled at temperature 1."""
    sampling = Sampling(max_new=settings.max_response, stop_ids=(policy.codec.stop_id,))
    prompts = list({example.prompt: example for example in dev_set}.values())[: settings.samples]
    seeds = [loop.seed_for(settings.seed, "samples", index) for index in range(len(prompts))]
    return answer(policy, prompts, sampling, seeds, name="samples")


def as_row(policy: Policy, answer: Rollout) -> dict[str, object]:
    """An answer as a row of samples.jsonl; the prompt with its control tokens, as the model saw it."""
    return {
        "prompt": policy.codec.tokenizer.decode(list(answer.prompt)),
        "response": policy.codec.decode(answer.response.ids),
        "tokens": len(answer.response.ids),
        "stopped": answer.response.stopped,
    }

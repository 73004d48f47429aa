"""Tokens a second of one engine: trimtab's sampler, or transformers' `generate`. A process of its own.

python sampler_arm.py SPEC RESULT
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "training"))
import torch
from forced import lengths_of
from meter import Meter, write_result
from torch import Tensor
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from trimtab.model.device import choose
from trimtab.model.policy import load_policy
from trimtab.rollout.engine import Sampler
from trimtab.rollout.types import Sampling
from trimtab.runs.phases import Phases, recording

SHORT = 6
"""Tokens of a response in the call that is not timed."""
PRECISIONS = {
    "generate-bf16": torch.bfloat16,
    "generate-float32": torch.float32,
    "generate-static": torch.bfloat16,
}
Prompts = list[tuple[int, ...]]
Run = Callable[[Sequence[int]], None]
"""One call of the engine; response i has as many tokens as the list says."""


class EndsAt(StoppingCriteria):
    """Row i is done after `lengths[i]` new tokens; the batch goes on until all are."""

    def __init__(self, prompt: int, lengths: Sequence[int]) -> None:
        self._ends = torch.tensor(lengths) + prompt

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """[B] bool."""
        return input_ids.shape[1] >= self._ends


def ours(spec: dict[str, Any], prompts: Prompts) -> Run:
    """trimtab: waiting prompts take the rows of responses that have ended."""
    policy = load_policy(spec["model"], choose("cpu", "bfloat16"), bytes_per_parameter=4)
    sampler = Sampler(policy.model, autocast=torch.bfloat16, batch=spec["batch"])
    stop = policy.codec.stop_id

    def run(lengths: Sequence[int]) -> None:
        sampling = Sampling(max_new=max(lengths), stop_ids=(stop,))
        with lengths_of(dict(enumerate(lengths)), stop):
            found = sampler.sample(prompts, sampling, list(range(len(prompts))))
        assert [len(one.response.ids) for one in found] == list(lengths)

    return run


def theirs(spec: dict[str, Any], prompts: Prompts) -> Run:
    """`generate`, batch by batch: each waits for its longest response."""
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=PRECISIONS[spec["arm"]]).eval()
    model.generation_config.eos_token_id = None
    how = {"cache_implementation": "static"} if spec["arm"] == "generate-static" else {}
    batch = spec["batch"]

    def run(lengths: Sequence[int]) -> None:
        for first in range(0, len(prompts), batch):
            ids = torch.tensor(prompts[first : first + batch])
            ends = lengths[first : first + batch]
            with torch.inference_mode():
                found = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=max(ends),
                    pad_token_id=0,
                    stopping_criteria=StoppingCriteriaList([EndsAt(ids.shape[1], ends)]),
                    **how,
                )
            assert found.shape[1] == ids.shape[1] + max(ends)

    return run


def main() -> None:
    """Time the calls and write."""
    meter = Meter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    draw = random.Random(0)
    lengths = spec["lengths"]
    prompts = [tuple(draw.randrange(1000, 40000) for _ in range(spec["prompt"])) for _ in lengths]
    run = (ours if spec["arm"] == "trimtab" else theirs)(spec, prompts)
    run([SHORT] * len(lengths))
    calls = []
    meter.begin()
    for _ in range(spec["calls"]):
        with recording(Phases(("sync", "prefill", "decode"))) as phases:
            began = time.perf_counter()
            run(lengths)
            calls.append({"seconds": time.perf_counter() - began, **phases.take()})
    write_result(Path(sys.argv[2]), {"calls": calls, **meter.shares(), **meter.memory()})


if __name__ == "__main__":
    main()

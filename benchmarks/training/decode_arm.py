"""Sampling with trimtab's engine from a model made from a seed, in a process of its own.

python decode_arm.py SPEC RESULT
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from made import SPECIAL
from meter import Meter, wait, write_result

from trimtab.model.device import choose
from trimtab.model.policy import load_policy
from trimtab.rollout.engine import Sampler
from trimtab.rollout.types import Sampling


def main() -> None:
    """Sample so many tokens for so many prompts, once to warm up and then by the clock."""
    meter = Meter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    policy = load_policy(spec["model"], choose(spec["device"], spec["precision"]), bytes_per_parameter=4)
    sampler = Sampler(policy.model, autocast=policy.numerics.autocast_dtype)
    generator = random.Random(0)
    words = range(len(SPECIAL), policy.model.config.vocab_size)
    prompts = [tuple(generator.choices(words, k=spec["prompt"])) for _ in range(spec["prompts"])]
    seeds = list(range(len(prompts)))
    seconds = []
    for _ in range(spec["steps"] + spec["warm_up"]):
        began = time.perf_counter()
        # No stop tokens: every response has all its tokens.
        rollouts = sampler.sample(prompts, Sampling(max_new=spec["new"]), seeds)
        wait()
        seconds.append(time.perf_counter() - began)
    tokens = sum(len(rollout.response.ids) for rollout in rollouts)
    timed = seconds[spec["warm_up"] :]
    write_result(
        Path(sys.argv[2]),
        {"seconds": timed, "tokens_per_second": [tokens / one for one in timed], **meter.memory()},
    )


if __name__ == "__main__":
    main()

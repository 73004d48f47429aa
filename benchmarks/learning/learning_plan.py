"""What is run, with every setting: the plan, fixed before the first run.

Stage settings are written as in a configuration file of the stage; models, files, seeds, episodes and the
KL weight are filled in by the part that runs it.

Rates and horizon were chosen in four runs of PPO on the bundled model with a seed that is not in the plan: at
a constant rate with minibatches of 16 the KL stayed at 2.9 nats for a target of 2, however large the weight
grew (4.2 for 4); with a rate that falls to 0 and minibatches of 32 it came to 1.8, and to 3.8 for 4. What
SmolLM2 is given was carried over from there, without a run to choose it by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.demo.assets import MODEL

Tree = Mapping[str, Any]

GAIN, GAIN_LOW, NATS, VARIETY, EPISODES = 0.20, 0.10, 6.0, 0.8, 2500
"""Asked for of SmolLM2 in each seed: gain of gold at least and its lower bound above, KL at most, distinct-2
at least of SFT's, episodes at most."""
NEAR = 0.2
"""Share of the target by which the mean KL of the last updates may miss it."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A language model with its proxy, and how PPO runs on it."""

    model: str
    sft: Tree | None
    """None: the model has learned to write reviews already."""
    sentences: int = 0
    """That SFT learns from."""
    prompts: int | None
    """Training prompts that pairs are asked for; none: all."""
    pairs: int
    """Unjudged, a training prompt; ties and equal answers fall out. Of each dev prompt there is one."""
    dev_prompts: int
    """That the proxy's dev pairs answer."""
    reward: Tree
    ppo: Tree


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides what the results are."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of PPO. Each setup has one SFT model, one set of pairs and one proxy, made with `made_with`."""
    made_with: int = 17
    real: Setup
    bundled: Setup
    fewest: int = 2
    most: int = 8
    """Tokens of a prompt, by the real model's tokenizer."""

    real_target: float = 4.0
    """Nats a response."""
    real_episodes: int = 1920
    targets: tuple[float, ...] = (2.0, 4.0)
    target_episodes: int = 5120
    """On the bundled model; both targets begin with `kl_weight`, as the real model does."""
    kl_weight: float = 0.2
    last: int = 20
    """Updates whose mean KL is held against the target."""

    betas: tuple[float, ...] = (0.01, 0.05, 0.2)
    """Fixed weights, on the bundled model."""
    beta_episodes: int = 8448
    beta_ppo: Tree = field(default_factory=dict)
    """Settings in place of the bundled setup's: nothing but the weight is to hold the policy back."""
    block: int = 11
    """Updates that are averaged when peak and end are compared: one lap of the prompts."""

    test_from: int = 420
    """Of the demo's test part: those before were seen while the demo's settings were chosen."""
    answers: int = 4
    """A test prompt, of every policy."""
    best_of: tuple[int, ...] = (4, 16)


def planned() -> Plan:
    """The plan of `make learning`."""
    limits = {"max_prompt": 16, "max_response": 32, "row_tokens": 512, "precision": "bfloat16"}
    falling = {"schedule": "linear", "epsilon": 1e-5}
    real = Setup(
        model="smollm2-135m-instruct",
        sentences=1500,
        sft={**limits, "max_response": 48, "batch": 16, "epochs": 2, "optimizer": {"learning_rate": 5e-5}},
        prompts=None,
        pairs=2,
        dev_prompts=200,
        reward={
            **limits,
            "max_response": 48,  # 32 sampled tokens may be read as a few more
            "batch": 16,
            "epochs": 2,
            "optimizer": {"learning_rate": 5e-5},
        },
        ppo={
            **limits,
            "rollouts": 32,
            "minibatch": 16,
            "epochs": 2,
            "calibration_prompts": 128,
            "score_clip": 2.0,
            "missing_stop_penalty": 0.0,
            "kl": {"horizon": 128},
            "checkpoint_every": 8,
            "optimizer": {"learning_rate": 2e-5, **falling},
            "value_optimizer": {"learning_rate": 4e-5, **falling},
        },
    )
    demo = {"max_prompt": 32, "max_response": 16, "row_tokens": 4096, "precision": "float32"}
    bundled = Setup(
        model=MODEL,
        sft=None,
        prompts=None,
        pairs=5,
        dev_prompts=256,
        reward={**demo, "max_response": 24, "batch": 64, "optimizer": {"learning_rate": 2e-3}},
        ppo={
            **demo,
            "rollouts": 64,
            "minibatch": 32,
            "epochs": 1,
            "calibration_prompts": 256,
            "score_clip": 1.85,
            "missing_stop_penalty": 0.0,
            "kl": {"horizon": 256},
            "checkpoint_every": 10,
            "optimizer": {"learning_rate": 3e-4, **falling},
            "value_optimizer": {"learning_rate": 1e-3, **falling},
        },
    )
    beta_ppo = {"rollouts": 128, "minibatch": 32, "score_clip": None}
    return Plan(real=real, bundled=bundled, beta_ppo=beta_ppo)

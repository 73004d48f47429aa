"""Every setting of every stage. The docstring under a field is its help; nothing fills one in later.

Sizes count examples over the whole optimizer step, never per micro-batch: how a step is cut into
rows (`row_tokens`) changes memory and speed and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from trimtab.config import Settings
from trimtab.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class OptimizerSettings(Settings):
    """AdamW, its schedule, and gradient clipping."""

    learning_rate: Positive = 1e-5
    """The highest learning rate, reached after the warm-up."""
    warmup: Share = 0.1
    """Share of all steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How it goes on: stays, falls linearly to 0, or falls to 0 along half a cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay, on matrices only."""
    beta1: Share = 0.9
    """Decay of the mean of gradients."""
    beta2: Share = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: Positive = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: Positive = 1.0
    """Gradients of a larger norm are scaled down to this one."""


class StageSettings(Settings):
    """What all stages share."""

    model: str
    """The model to begin from: a run, a Hugging Face folder or hub id, a .gguf file, a known name."""
    data: str
    """Training data: a JSONL, JSONL.gz or Parquet file, or a hub data set."""
    dev: str | None = None
    """Held-out data of the same kind, measured before and after; none: not measured."""
    dialogues: Literal["chat", "raw"] = "chat"
    """How raw HH-RLHF dialogues are read: as chat messages, or as plain text to continue."""
    device: Device = "auto"
    """auto takes CUDA where there is one, else the CPU; mps only when asked for."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; weights stay float32. auto: bfloat16 where the hardware has it."""
    seed: int = 0
    """Every random draw derives from it."""
    max_prompt: PositiveInt = 192
    """Tokens of a prompt at most; longer chats lose their oldest turns."""
    max_response: PositiveInt = 64
    """Tokens of a response at most, the stop token included; longer ones are cut."""
    row_tokens: PositiveInt = 1024
    """Tokens that go through the model at once: more is faster, until memory runs out."""
    checkpoint_every: PositiveInt = 50
    """Steps between checkpoints; Ctrl-C saves one whenever it comes."""
    samples: Annotated[int, Field(ge=0)] = 8
    """Dev prompts whose answers are kept in samples.jsonl when the stage has ended; PPO: before, too."""


class EpochSettings(StageSettings):
    """Stages that go through a data set."""

    epochs: PositiveInt = 1
    """Passes over the data."""
    batch: PositiveInt = 16
    """Examples (demonstrations or pairs) per optimizer step."""


class SFTSettings(EpochSettings):
    """Supervised fine-tuning on demonstrations, or on the chosen responses of comparisons."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=2e-5)


class RewardSettings(EpochSettings):
    """A Bradley-Terry reward model on comparisons."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=2e-5)


class DPOSettings(EpochSettings):
    """Direct preference optimization on comparisons."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=5e-6)
    beta: Positive = 0.1
    """Reward per nat of log-ratio: larger holds the policy closer to the reference."""


class KLSettings(Settings):
    """The penalty on leaving the reference."""

    weight: Annotated[float, Field(ge=0)] = 0.05
    """Reward taken per nat by which the policy's log-probability exceeds the reference's."""
    target: Positive | None = None
    """Nats per response to steer to, by adapting the weight; none: the weight is fixed."""
    horizon: PositiveInt = 10_000
    """Episodes over which an adaptive weight may change by about 20 %."""


class PPOSettings(StageSettings):
    """Proximal policy optimization against a reward model."""

    reward_model: str
    """A run of the reward stage; it must share the policy's tokenizer."""
    episodes: PositiveInt = 512
    """Responses sampled in all. A multiple of `rollouts`."""
    rollouts: PositiveInt = 64
    """Responses sampled from one frozen policy before it is updated."""
    minibatch: PositiveInt = 16
    """Responses per optimizer step. Divides `rollouts`."""
    epochs: PositiveInt = 2
    """Passes over the same rollouts."""
    temperature: Positive = 1.0
    """Of sampling, and of the log-probabilities in training."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far a probability ratio may move before its gradient stops."""
    value_clip: Positive = 0.2
    """How far a value may move from its old one within an update, in units of reward."""
    lam: Share = 0.95
    """GAE's lambda."""
    kl: KLSettings = KLSettings()
    """The penalty on leaving the reference."""
    dev_prompts: Annotated[int, Field(ge=2)] = 128
    """Dev prompts answered before and after, for the proxy reward, the KL and the stopped share."""
    missing_stop_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Taken from the score of a response that the length limit ended."""
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-5, schedule="constant", epsilon=1e-5)
    """Of the policy."""
    value_optimizer: OptimizerSettings = OptimizerSettings(
        learning_rate=2e-5, schedule="constant", epsilon=1e-5
    )
    """Of the value model."""
    checkpoint_every: PositiveInt = 2
    """Updates (of `rollouts` episodes) between checkpoints."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        for small, large in (("minibatch", "rollouts"), ("rollouts", "episodes")):
            size, total = getattr(self, small), getattr(self, large)
            if total % size:
                raise ConfigError(
                    f"{large} must be a multiple of {small}",
                    where=f"ppo.{small}",
                    found=f"{large} = {total}, {small} = {size}",
                    fix=f"set {large} = {max(total // size, 1) * size}",
                )
        return self

    @property
    def updates(self) -> int:
        """Rounds of sampling and learning."""
        return self.episodes // self.rollouts


STAGES: dict[str, type[StageSettings]] = {
    "sft": SFTSettings,
    "reward": RewardSettings,
    "dpo": DPOSettings,
    "ppo": PPOSettings,
}
"""The stages that train, by the name that the command line and pipelines give them."""

"""Every setting of every stage. The docstring under a field is its help; nothing fills one in later.

Sizes count examples over the whole optimizer step, never per micro-batch: how a step is cut into
rows (`row_tokens`) changes memory and speed and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ByteSize, ConfigDict, Field, PositiveInt, model_validator

from trimtab.config import Settings
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.losses.preference import PreferenceLoss

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(ge=0)]
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
    moments: Literal["float32", "8bit"] = "float32"
    """How AdamW's two moments are kept between steps. 8bit: 2 bytes a weight in place of 8, several times the
    time for the step itself, and rounded; for what would not fit otherwise."""


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
    row_tokens: PositiveInt = 512
    """Tokens that go through the model at once: more is faster, until memory runs out."""
    checkpoint_every: PositiveInt = 50
    """Steps between checkpoints; Ctrl-C saves one whenever it comes."""
    samples: Annotated[int, Field(ge=0)] = 8
    """Dev prompts whose answers are kept in samples.jsonl when the stage has ended; PPO: before, too."""


class LoRASettings(Settings):
    """Adapters: matrices W become W + (alpha / rank) B A, and only A and B are trained."""

    rank: PositiveInt = 8
    """Rows of A and columns of B: more can learn more, and cost more memory."""
    alpha: Positive = 16.0
    """What the adapters are scaled by, before the division by their rank."""
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """The matrices that get one: all between embedding and head, or those whose names end so, such as
    [q_proj, v_proj]."""
    base: Literal["full", "4bit"] = "full"
    """How the frozen weights are held. full: as the forward pass reads them, exactly; 4bit: as NF4 by
    bitsandbytes, on CUDA only, and not measured yet."""


class EpochSettings(StageSettings):
    """Stages that go through a data set."""

    epochs: PositiveInt = 1
    """Passes over the data."""
    batch: PositiveInt = 16
    """Examples (demonstrations, pairs, or for a reward model rankings) per optimizer step."""
    optimizer: OptimizerSettings = OptimizerSettings()
    memory_limit: Annotated[ByteSize, Field(gt=0)] | None = None
    """Memory that the stage may hold at most, such as 6GiB or 800MB: where it would need more, row_tokens is
    lowered first, then blocks of the model are computed twice, which takes longer; none: no limit."""
    lora: LoRASettings | None = None
    """Train adapters of low rank in place of the weights: lora.rank=8, or lora={} for the defaults; none: all
    weights are trained. Adapters want about ten times the learning rate."""


class SFTSettings(EpochSettings):
    """Supervised fine-tuning on demonstrations, or on the chosen responses of comparisons."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=2e-5)


class RewardSettings(EpochSettings):
    """A Bradley-Terry reward model on comparisons."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=2e-5)
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Reward by which the chosen response must lead for the loss of a tie; 0 is a likelihood."""
    margin_by_strength: tuple[Margin, Margin, Margin] | None = None
    """Margins of pairs that were judged slightly, clearly and strongly better, such as [0.33, 0.67, 1]; for
    pairs of which nobody said it, `margin` holds. none: `margin` for all."""
    rankings: Literal["pairs", "plackett_luce"] = "pairs"
    """The loss of one person's ranking of several responses: the mean over its pairs, or the likelihood of
    the whole order; rankings with ties or gaps are learned by their pairs in any case."""
    centring: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared sum of a pair's rewards, which holds their level near 0."""
    temperature: Literal["none", "dev"] = "none"
    """dev: afterwards the head is divided by the temperature that makes people's choices on the dev pairs
    most likely, so that sigma(difference of rewards) can be believed; none: as trained."""
    members: PositiveInt = 1
    """Reward models to train, each with a seed of its own (`seed`, `seed` + 1, ...), into RUN/members; above
    1 the run is an ensemble, whose members' mean and disagreement `trimtab eval reward` reports."""

    @model_validator(mode="after")
    def _no_margin_of_a_whole_order(self) -> Self:
        if self.rankings == "plackett_luce" and (self.margin or self.margin_by_strength):
            raise ConfigError(
                "the likelihood of a whole ranking has no margins",
                where="rankings",
                found="rankings = plackett_luce, and a margin",
                fix="set rankings = pairs, or no margin",
            )
        return self

    @model_validator(mode="after")
    def _temperature_needs_dev(self) -> Self:
        if self.temperature == "dev" and self.dev is None:
            raise ConfigError(
                "a temperature is fitted on dev pairs", where="temperature", fix="give dev, or set it to none"
            )
        return self


class LossSettings(Settings):
    """A preference loss by name, with its options beside the name: {name: cdpo, label_noise: 0.2}."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    name: str = "dpo"
    """One of the losses in docs/math.md; an option that it does not take is refused."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, tree: Any) -> Any:
        """A name alone stands for the loss with its defaults; options not given are written out."""
        from trimtab.losses.preference import default_options

        given = {"name": tree} if isinstance(tree, str) else tree
        if not isinstance(given, Mapping) or not isinstance(given.get("name", "dpo"), str):
            return tree  # which is then refused for its type
        return {"name": "dpo", **default_options(given.get("name", "dpo")), **given}

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.chosen()
        return self

    def chosen(self) -> PreferenceLoss:
        """The loss with its options."""
        from trimtab.losses.preference import preference_loss

        return preference_loss(self.name, self.__pydantic_extra__)


class ReferenceSettings(Settings):
    """The model that a policy is measured against."""

    every: PositiveInt | None = None
    """Optimizer steps after which the reference follows the policy (TR-DPO; 512 is usual): a second set of
    weights in memory and in checkpoints. none: it stays the policy as it was before this stage."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.6
    """How far it follows: 1 puts the policy in its place, less mixes that share of the policy into it."""
    cache: Annotated[float, Field(ge=0)] = 2.0
    """Gigabytes of log-probabilities that are kept for other runs on the same data, in
    ~/.cache/trimtab/reference or TRIMTAB_REFERENCE_CACHE; those not used for longest go first. 0: none is."""


class DPOSettings(EpochSettings):
    """Direct preference optimization on comparisons, or (loss: kto) on responses rated one by one."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=5e-6)
    loss: LossSettings = Field(default_factory=LossSettings)
    """The preference loss and its options; beta is the reward per nat of log-ratio."""
    reference: ReferenceSettings = ReferenceSettings()
    """What the policy is measured against, and whether its log-probabilities are kept for other runs."""
    good_from: Annotated[int, Field(ge=2, le=7)] | None = None
    """Of graded responses, the lowest grade that is good; none: graded responses are left out."""

    @model_validator(mode="after")
    def _can_follow(self) -> Self:
        if self.reference.every is None:
            return self
        if "reference" not in self.loss.chosen().inputs:
            raise ConfigError(
                f"the loss {self.loss.name} reads no reference",
                where="reference.every",
                found=f"reference.every = {self.reference.every}",
                fix="leave it out, or use another loss",
            )
        if self.lora is not None:
            raise ConfigError(
                "with adapters the reference is the base model, which stays",
                where="reference.every",
                found=f"reference.every = {self.reference.every}, and lora",
                fix="leave one of them out",
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _beta_belongs_to_the_loss(cls, tree: Any) -> Any:
        if isinstance(tree, Mapping) and "beta" in tree:
            raise ConfigError(
                "beta is an option of the loss",
                where="beta",
                found=f"beta = {tree['beta']!r}",
                fix=f"write loss: {{beta: {tree['beta']}}}, or --set loss.beta={tree['beta']}",
            )
        return tree


class KLSettings(Settings):
    """The penalty on leaving the reference."""

    weight: Annotated[float, Field(ge=0)] = 0.05
    """Reward taken per nat by which the policy's log-probability exceeds the reference's."""
    target: Positive | None = None
    """Nats per response to steer to, by adapting the weight; none: the weight is fixed."""
    horizon: PositiveInt | None = None
    """Episodes over which an adaptive weight may change by about 20 %; none: those of two updates, so that it
    changes by 10 % an update at most."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """What is taken off the reward of each token: k1 is exact; k2 and k3 are biased, and say so."""


class PretrainingSettings(Settings):
    """Demonstrations that PPO learns from beside the rewards (PPO-ptx), lest it forget them."""

    data: str
    """Demonstrations of any kind that `sft` takes."""
    weight: Positive = 1.0
    """What their mean loss a token weighs beside the policy's."""
    batch: PositiveInt = 8
    """Demonstrations beside each minibatch."""


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
    kl_stop: Positive | None = None
    """Nats a token between the policy that sampled and the one that learns: the first minibatch that finds
    them further apart is the update's last; 0.02 is usual; none: every pass is made."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Ratio beyond which a token of negative advantage has no gradient; none: no such limit."""
    importance_cap: Annotated[float, Field(ge=1)] | None = None
    """Tokens count by their probability under the learner over the sampler's, at most this: for a sampler
    whose arithmetic differs; 2 is usual; none: all count the same."""
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    """What a nat of entropy at a token is worth, in units of advantage: keeps answers varied; 0: no bonus."""
    lam: Share = 0.95
    """GAE's lambda."""
    advantages: Literal["standardized", "centred", "plain"] = "standardized"
    """Over the tokens of an update: mean 0 and variance 1, mean 0, or as they were estimated."""
    rewards: Literal["plain", "whitened"] = "plain"
    """Of the tokens of an update: as they come, or divided by their deviation, their mean kept."""
    scores: Literal["plain", "running"] = "plain"
    """Of responses: as they come, or less the mean and by the deviation of all that have come so far."""
    value_warmup: Annotated[int, Field(ge=0)] = 0
    """Updates at the beginning in which only the value model learns."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an average of the policy's weights, which becomes the stage's model: what of itself it keeps at
    each optimizer step; 0.992 is usual; none: the policy itself is the stage's model."""
    pretraining: PretrainingSettings | None = None
    """Demonstrations that are learned beside the rewards: pretraining.data=FILE; none: rewards alone."""
    kl: KLSettings = KLSettings()
    """The penalty on leaving the reference."""
    dev_prompts: Annotated[int, Field(ge=2)] = 128
    """Dev prompts answered before and after, for the proxy reward, the KL and the stopped share."""
    calibration_prompts: Annotated[int, Field(ge=2)] | None = None
    """Training prompts that the reference answers first: scores are shifted and scaled so that these answers
    have mean 0 and deviation 1, and a KL weight means the same whatever the reward model's scale; none: as
    the reward model gives them."""
    score_clip: Positive | None = None
    """Scores further than this from 0 count as so far; none: no limit. In deviations, if calibrated."""
    missing_stop_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Taken from the score of a response that the length limit ended."""
    length_penalty: float = 0.0
    """Taken from the score for each token of a response; below 0 it is a reward."""
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-5, schedule="constant", epsilon=1e-5)
    """Of the policy."""
    value_optimizer: OptimizerSettings = OptimizerSettings(
        learning_rate=2e-5, schedule="constant", epsilon=1e-5
    )
    """Of the value model."""
    lora: LoRASettings | None = None
    """Train adapters in place of the weights, lora.rank=8 or lora={}: policy, value, reference and reward
    model are then one model in memory. The reward model must be a run with lora from the same `model`, and
    adapters want about ten times the learning rates; none: four models, two of them trained."""
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

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.scores == "running" and self.calibration_prompts is not None:
            raise ConfigError(
                "scores are put on a scale twice",
                where="ppo.scores",
                found=f"scores = running, calibration_prompts = {self.calibration_prompts}",
                fix="leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _policy_learns(self) -> Self:
        if self.value_warmup >= self.updates:
            raise ConfigError(
                "the policy would never learn",
                where="ppo.value_warmup",
                found=f"value_warmup = {self.value_warmup} of {self.updates} updates",
                fix="lower it, or take more episodes",
            )
        return self

    @model_validator(mode="after")
    def _clips_in_order(self) -> Self:
        if self.dual_clip is not None and not self.dual_clip > 1 + self.clip:
            raise ConfigError(
                "dual_clip must lie beyond the clip",
                where="ppo.dual_clip",
                found=f"dual_clip = {self.dual_clip}, 1 + clip = {1 + self.clip}",
                fix="3 is usual",
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

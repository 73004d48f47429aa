"""The parts that train: what both setups learn from, and PPO with the gold scorer looking on.

The gold scorer is seen by nobody that learns: it judges the pairs (which of two answers, or a tie), and what
it makes of the rollouts is only logged.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from learning_plan import Plan, Setup, Tree
from torch import Tensor

from trimtab import formats
from trimtab.config import build
from trimtab.data.tokens import Codec, Example
from trimtab.demo.assets import GOLD, Part, prompts
from trimtab.demo.pairs import judge_pairs, sample_pairs
from trimtab.judges.judge import Answer, Unreadable
from trimtab.judges.words import WordJudge, load_word_judge
from trimtab.model.load import load_tokenizer
from trimtab.records import Demonstration
from trimtab.rollout.types import Rollout, Sampling
from trimtab.runs.run import Run, is_done, open_run, read_facts, read_metrics
from trimtab.train import inputs, ppo, reward, sft
from trimtab.train.calibration import calibrated
from trimtab.train.models import finish
from trimtab.train.ppo_experience import evaluate
from trimtab.train.ppo_models import PPOModels, load_ppo_models
from trimtab.train.ppo_steps import Learners, learn
from trimtab.train.settings import PPOSettings, RewardSettings, SFTSettings

sys.path.append(str(Path(__file__).parents[2] / "examples" / "small-model"))
from reviews import labelled_sentences

WORDS = (2, 3, 4, 5)
"""Of a sentence that become its prompt, by turns; as the demo's prompts were cut."""
SFT_DEV = 150
"""Sentences that SFT's dev loss is measured on."""


@dataclass(frozen=True)
class Place:
    """The folder of one setup: its data, its SFT model and its proxy."""

    folder: Path
    setup: Setup

    @property
    def policy(self) -> str:
        """What PPO begins from."""
        return self.setup.model if self.setup.sft is None else str(self.folder / "sft")

    @property
    def proxy(self) -> str:
        """The reward model."""
        return str(self.folder / "reward")

    def data(self, name: str) -> Path:
        """A file of prompts, demonstrations or pairs."""
        return self.folder / "data" / f"{name}.jsonl"


def real(plan: Plan, out: Path) -> Place:
    """Where SmolLM2's things are."""
    return Place(out / "real", plan.real)


def bundled(plan: Plan, out: Path) -> Place:
    """Where the bundled model's things are."""
    return Place(out / "bundled", plan.bundled)


def prepare(plan: Plan, place: Place, reviews: Path) -> dict[str, Any]:
    """Data, SFT where there is one, pairs, proxy; what is done before is not done again."""
    setup = place.setup
    place.data("").parent.mkdir(parents=True, exist_ok=True)
    codec = load_tokenizer(setup.model)
    for part in ("train", "dev"):
        formats.write_prompts(place.data(f"prompts-{part}"), asked(plan, codec, part))
    if setup.sft is not None:
        _write_demonstrations(plan, place, codec, reviews)
        tree = {"model": setup.model, "data": str(place.data("sft")), "dev": str(place.data("sft-dev"))}
        _stage(place.folder / "sft", "sft", {**tree, "seed": plan.made_with, **setup.sft})
    _write_pairs(plan, place, codec)
    judged: Tree = {
        "model": place.policy,
        "data": str(place.data("pairs-train")),
        "dev": str(place.data("pairs-dev")),
        "seed": plan.made_with,
    }
    _stage(place.folder / "reward", "reward", {**judged, **setup.reward})
    return _account(place)


def asked(plan: Plan, codec: Codec, part: Part) -> list[str]:
    """The demo's prompts of a part that have 2 to 8 of this model's tokens."""
    chosen = prompts(part)[plan.test_from if part == "test" else 0 :]
    return [text for text in chosen if plan.fewest <= _tokens(codec, text) <= plan.most]


def _tokens(codec: Codec, text: str) -> int:
    return len(codec.tokenizer(text, add_special_tokens=False)["input_ids"])


def _write_demonstrations(plan: Plan, place: Place, codec: Codec, reviews: Path) -> None:
    """Sentences of the language part, which no scorer learned from and no prompt was cut from."""
    texts = [one.text for one in labelled_sentences(reviews) if one.part == "language"]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(plan.made_with)).tolist()
    taken = {formats.prompt_key(text) for part in ("dev", "test") for text in asked(plan, codec, part)}
    found: dict[str, Demonstration] = {}
    for turn, index in enumerate(order):
        demonstration = _cut(plan, codec, texts[index], turn)
        if demonstration is not None and (key := formats.prompt_key(demonstration.prompt)) not in taken:
            found.setdefault(key, demonstration)
    shown = list(found.values())
    formats.write_demonstrations(place.data("sft-dev"), shown[:SFT_DEV])
    formats.write_demonstrations(place.data("sft"), shown[SFT_DEV : SFT_DEV + place.setup.sentences])


def _cut(plan: Plan, codec: Codec, text: str, turn: int) -> Demonstration | None:
    """The sentence as a prompt of 2 to 8 tokens and what follows it; None where that cannot be."""
    words = text.split()
    count = WORDS[turn % len(WORDS)]
    prompt = " ".join(words[:count])
    if count >= len(words) or not plan.fewest <= _tokens(codec, prompt) <= plan.most:
        return None
    return Demonstration(prompt=prompt, response=" " + " ".join(words[count:]))


def _write_pairs(plan: Plan, place: Place, codec: Codec) -> None:
    """Two answers at a time of the model that PPO begins from, and which of them the gold scorer prefers."""
    gold = load_word_judge(GOLD)
    setup = place.setup
    asked_for: list[tuple[Part, int | None, int]] = [
        ("train", setup.prompts, setup.pairs),
        ("dev", setup.dev_prompts, 1),
    ]
    for number, (part, count, pairs) in enumerate(asked_for):
        path = place.data(f"pairs-{part}")
        if path.exists():
            continue
        seed = plan.made_with + 2 * number  # two sides, each with seeds of its own
        drawn = sample_pairs(
            place.policy,
            asked(plan, codec, part)[:count],
            pairs=pairs,
            max_new=int(setup.ppo["max_response"]),
            seed=seed,
            device="cpu",
        )
        formats.write_comparisons(path, judge_pairs(drawn, gold, noise=0.0, seed=seed))


def _stage(folder: Path, stage: str, tree: Tree) -> None:
    """SFT or the reward model, from where it stopped; nothing if it is done."""
    if is_done(folder):
        return
    if stage == "sft":
        settings = build(SFTSettings, {"device": "cpu", **tree}, where=stage)
        with open_run(folder, stage, settings, resume=True) as run:
            sft.train(settings, run)
    else:
        chosen = build(RewardSettings, {"device": "cpu", **tree}, where=stage)
        with open_run(folder, stage, chosen, resume=True) as run:
            reward.train(chosen, run)


def _account(place: Place) -> dict[str, Any]:
    """What the table tells of a setup."""
    stages = ["reward"] if place.setup.sft is None else ["sft", "reward"]
    facts = {stage: read_facts(place.folder / stage) for stage in stages}
    known = facts["reward"]
    return {
        **{key: known[key] for key in ("trimtab", "commit", "python", "packages", "hardware", "threads")},
        "date": known["finished"][:10],
        "seconds": {stage: facts[stage]["cost"]["wall_s"] for stage in stages},
        "data": {
            stage: {name: one["examples"] for name, one in facts[stage]["data"].items()} for stage in stages
        },
        "dev": {stage: _dev_figures(read_metrics(place.folder / stage)) for stage in stages},
    }


def _dev_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Loss or accuracy on the dev set at the end, with its interval."""
    (last,) = [row for row in rows if "dev_loss" in row][-1:]
    name = "dev_accuracy" if "dev_accuracy" in last else "dev_loss"
    return {f"{name}{end}": last[f"{name}{end}"] for end in ("", "_low", "_high")}


@dataclass
class Watched:
    """PPO's models with somebody looking on: each update's own rollouts, scored by the gold scorer."""

    models: PPOModels
    gold: WordJudge
    rollouts: list[Rollout] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def watched(self) -> PPOModels:
        """The same models, telling what they answered and scored last."""
        return replace(self.models, answer=self._answer, score=self._score)

    def figures(self) -> dict[str, float]:
        """Gold and the proxy's own score, neither clipped nor penalised: means and deviations."""
        found = {"gold": self._gold(), "proxy": self.scores}
        means = {name: fmean(values) for name, values in found.items()}
        return {**means, **{f"{name}_deviation": pstdev(values) for name, values in found.items()}}

    def _answer(
        self, prompts: Sequence[Example], sampling: Sampling, seeds: Sequence[int], *, name: str
    ) -> list[Rollout]:
        self.rollouts = self.models.answer(prompts, sampling, seeds, name=name)
        return self.rollouts

    def _score(self, examples: Sequence[Example]) -> Tensor:
        scores = self.models.score(examples)
        self.scores = scores.tolist()
        return scores

    def _gold(self) -> list[float]:
        codec = self.models.policy.codec
        return gold_scores(
            self.gold,
            [
                Answer(codec.decode(one.prompt), codec.decode_response("", one.response.ids))
                for one in self.rollouts
            ],
        )


def gold_scores(gold: WordJudge, answers: Sequence[Answer]) -> list[float]:
    """P(positive) of each prompt with its answer."""
    found = gold.score(answers)
    return [score for score in found if not isinstance(score, Unreadable)]


def ppo_settings(
    plan: Plan,
    place: Place,
    *,
    seed: int,
    episodes: int,
    kl_weight: float,
    target: float | None,
    changes: Tree,
) -> PPOSettings:
    """The settings of one run of PPO."""
    tree = {**place.setup.ppo, **changes}
    kl = {**tree.get("kl", {}), "weight": kl_weight, "target": target}
    given = {
        "model": place.policy,
        "reward_model": place.proxy,
        "data": str(place.data("prompts-train")),
        "device": "cpu",
        "samples": 0,
    }
    return build(
        PPOSettings, {**given, **tree, "seed": seed, "episodes": episodes, "kl": kl}, where="the plan"
    )


def run_ppo(settings: PPOSettings, folder: Path) -> dict[str, Any]:
    """The stage with gold watched; what its log says of each update."""
    if not is_done(folder):
        with open_run(folder, "ppo", settings, resume=True) as run:
            _train(settings, run)
    rows = [row for row in read_metrics(folder) if "score" in row]
    kept = (
        "step",
        "gold",
        "gold_deviation",
        "proxy",
        "proxy_deviation",
        "kl",
        "kl_weight",
        "length",
        "stopped",
    )
    facts = read_facts(folder)
    return {
        "seed": settings.seed,
        "episodes": settings.episodes,
        "rollouts": settings.rollouts,
        "target": settings.kl.target,
        "kl_weight": settings.kl.weight,
        "first_ratio_error": rows[0]["first_ratio_error"],
        "updates": [{name: _short(row[name]) for name in kept} for row in rows],
        "seconds": facts["cost"]["wall_s"],
        "peak_bytes": facts["cost"]["peak_memory_bytes"],
        "commit": facts["commit"],
        "date": facts["finished"][:10],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _train(settings: PPOSettings, run: Run) -> None:
    """`trimtab.train.ppo.train`, watched."""
    models = load_ppo_models(settings, run)
    train_set, dev_set = inputs.prompts(settings, models.policy.codec, run)
    sampling = Sampling(
        max_new=settings.max_response,
        temperature=settings.temperature,
        stop_ids=(models.policy.codec.stop_id,),
    )
    models = calibrated(models, train_set, sampling, settings, run)
    watched = Watched(models, load_word_judge(GOLD))
    ppo.optimize(watched.watched(), train_set, dev_set, settings, run, watch=watched.figures)
    finish(models.policy, run)


def first_minibatch(settings: PPOSettings) -> dict[str, float]:
    """The first step of this run, from its own first rollouts: all of them as one minibatch.

    A run's log has means over an update's minibatches, of which only the first meets the weights that
    sampled; so the first step is taken once more, in a folder that is thrown away.
    """
    whole = settings.model_copy(update={"minibatch": settings.rollouts, "epochs": 1})
    with (
        tempfile.TemporaryDirectory() as folder,
        open_run(Path(folder) / "first", "ppo", whole, resume=False) as run,
    ):
        models = load_ppo_models(whole, run)
        train_set, _ = inputs.prompts(whole, models.policy.codec, run)
        experience = evaluate(models, ppo.collect(models, train_set, whole, 0), whole.kl.weight, whole)
        found = learn(models, Learners.of(models, whole), experience, whole, 0)
    names = {"approximate_kl", "clip_fraction", "ratio_error"}
    return {**{name: found[name] for name in sorted(names)}, "responses": whole.rollouts}

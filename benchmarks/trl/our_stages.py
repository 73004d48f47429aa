"""trimtab's side of compare.py for SFT, the reward model and the preference losses; what both sides read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from trimtab import formats
from trimtab.config import build
from trimtab.data.tokens import Codec, Example, Limits, Response, encode_comparisons
from trimtab.model.device import Numerics
from trimtab.model.load import load_tokenizer
from trimtab.model.policy import load_policy
from trimtab.model.save import save_model
from trimtab.model.scalar import load_scorer, new_scorer
from trimtab.train import dpo, loop, reward, sft
from trimtab.train.reference import over_tokens
from trimtab.train.settings import DPOSettings, OptimizerSettings, RewardSettings, SFTSettings

MODEL = "smollm2-135m-instruct"
BUNDLED = Path(__file__).parents[2] / "examples" / "hh-harmless" / "comparisons.jsonl.gz"
STEPS, PAIRS_A_STEP = 20, 4
NOISE = 0.02
"""Standard deviation of the noise, relative to each weight's own."""
RATE = 1e-5
MAX_GRAD_NORM = 1e9
"""Gradients are measured and left as they are."""
BETAS = {
    **dict.fromkeys(("dpo", "ipo_mean", "hinge", "robust", "cdpo", "exo", "nca", "bco", "sppo"), 0.1),
    **dict.fromkeys(("aot", "aot_unpaired", "apo_zero", "apo_down"), 0.1),
    **dict.fromkeys(("ld_dpo", "wpo", "js_dpo", "forward_kl_dpo"), 0.1),
    "discopop": 0.05,
    "dpo_norm": 5.0,
}
NUMERICS = Numerics(torch.device("cpu"), None)
FOLLOWED = ("sft", "reward", "dpo", "ipo_mean", "hinge", "robust")
"""Losses that are followed for all steps; the others for the first ones."""
FIRST = 2
LOSSES = {**dict.fromkeys(FOLLOWED, STEPS), **{loss: FIRST for loss in BETAS if loss not in FOLLOWED}}


def prepare(out: Path, pairs: Path | None) -> None:
    """Models and token ids that both sides read, if they are not there yet."""
    if (out / "pairs.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    policy = load_policy(MODEL, NUMERICS, bytes_per_parameter=4)
    save_model(policy.model, policy.codec, out / "reference")
    add_noise(policy.model, seed=1)
    save_model(policy.model, policy.codec, out / "policy")
    generator = torch.Generator().manual_seed(2)
    scorer = new_scorer(str(out / "policy"), NUMERICS, generator, bytes_per_parameter=4)
    save_model(scorer.model, scorer.codec, out / "scorer")
    examples = _examples(policy.codec, pairs or BUNDLED)
    plan = {
        "optimizer": {"lr": RATE, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
        "max_grad_norm": MAX_GRAD_NORM,
        "batches": [
            [_as_row(example) for example in examples[first : first + PAIRS_A_STEP]]
            for first in range(0, STEPS * PAIRS_A_STEP, PAIRS_A_STEP)
        ],
    }
    (out / "pairs.json").write_text(json.dumps(plan))


def add_noise(model: torch.nn.Module, seed: int) -> None:
    """Move every weight by seeded noise, in proportion to the spread of its own tensor."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * NOISE * weight.std(correction=0))


def _examples(codec: Codec, pairs: Path) -> list[Example]:
    rows = formats.usable(formats.read_comparisons(str(pairs)))[: 2 * STEPS * PAIRS_A_STEP]
    encoded = encode_comparisons(codec, rows, Limits(prompt=128, response=48)).examples
    return encoded[: STEPS * PAIRS_A_STEP]


def _as_row(example: Example) -> dict[str, list[int]]:
    chosen, rejected = example.responses
    return {
        "prompt_ids": list(example.prompt),
        "chosen_ids": list(chosen.ids),
        "rejected_ids": list(rejected.ids),
    }


def _as_example(row: dict[str, list[int]], stop_id: int, sides: tuple[str, ...]) -> Example:
    ids = [tuple(row[side]) for side in sides]
    return Example(tuple(row["prompt_ids"]), tuple(Response(one, one[-1] == stop_id) for one in ids))


def run(out: Path) -> None:
    """The stages' own steps over the batches, for every loss that is not there yet."""
    for loss in LOSSES:
        path = out / f"ours-{loss}.json"
        if not path.exists():
            path.write_text(json.dumps(_our_steps(out, loss)))


def _our_steps(out: Path, loss: str) -> list[dict[str, float]]:
    plan = json.loads((out / "pairs.json").read_text())
    stop_id = load_tokenizer(str(out / "policy")).stop_id
    sides = ("chosen_ids",) if loss == "sft" else ("chosen_ids", "rejected_ids")
    batches = [
        [_as_example(row, stop_id, sides) for row in batch] for batch in plan["batches"][: LOSSES[loss]]
    ]
    step = _stepper(out, loss)
    found = []
    for batch in batches:
        metrics = step(batch)
        found.append(metrics)
        print(loss, len(found), metrics["loss"], metrics["grad_norm"], flush=True)
    return found


def _stepper(out: Path, loss: str) -> Callable[[list[Example]], dict[str, float]]:
    """One optimizer step of a stage on a batch, from the models in the folders."""
    common = {"model": "given", "data": "given", "batch": PAIRS_A_STEP}
    optimizer = OptimizerSettings(
        learning_rate=RATE, warmup=0.0, schedule="constant", max_grad_norm=MAX_GRAD_NORM
    )
    if loss == "reward":
        scorer = load_scorer(str(out / "scorer"), NUMERICS, bytes_per_parameter=16)
        scoring = build(RewardSettings, common)
        learner = loop.Learner(scorer.model, optimizer, STEPS)
        return lambda batch: reward.learn(scorer, learner, batch, scoring)
    policy = load_policy(str(out / "policy"), NUMERICS, bytes_per_parameter=16)
    learner = loop.Learner(policy.model, optimizer, STEPS)
    if loss == "sft":
        showing = build(SFTSettings, common)
        return lambda batch: sft.learn(policy, learner, batch, showing)
    reference = load_policy(str(out / "reference"), NUMERICS, bytes_per_parameter=4)
    settings = build(DPOSettings, {**common, "loss": {"name": loss, "beta": BETAS[loss]}})
    learn = dpo.learn_together if settings.loss.chosen().needs_whole_batch else dpo.learn_by_rows

    def step(batch: list[Example]) -> dict[str, float]:
        before = over_tokens(reference, batch, "reference", settings, "reference")
        return {**learn(policy, batch, before, settings), **learner.step()}

    return step

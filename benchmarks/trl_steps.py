"""Step by step beside TRL: the same token ids in the same order with the same AdamW, in float32.

    python benchmarks/trl_steps.py prepare --out ../trl --pairs ../shared/data/hh-harmless/train.jsonl.gz
    python benchmarks/trl_steps.py ours    --out ../trl
    python benchmarks/trl_steps.py theirs  --out ../trl --python ../trl/venv/bin/python   # trl==1.16.0
    python benchmarks/trl_steps.py compare --out ../trl

The policy is the reference with seeded noise on every weight, so that log-ratios differ from 0 and step 1 can
fail. Each part skips what is there already.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from trimtab.train.settings import DPOSettings, OptimizerSettings, RewardSettings, SFTSettings

MODEL = "smollm2-135m-instruct"
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


def prepare(out: Path, pairs: Path) -> None:
    """Models and token ids that both sides read."""
    out.mkdir(parents=True, exist_ok=True)
    policy = load_policy(MODEL, NUMERICS, bytes_per_parameter=4)
    save_model(policy.model, policy.codec, out / "reference")
    _add_noise(policy.model, seed=1)
    save_model(policy.model, policy.codec, out / "policy")
    generator = torch.Generator().manual_seed(2)
    scorer = new_scorer(str(out / "policy"), NUMERICS, generator, bytes_per_parameter=4)
    save_model(scorer.model, scorer.codec, out / "scorer")
    examples = _examples(policy.codec, pairs)
    plan = {
        "optimizer": {"lr": RATE, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
        "max_grad_norm": MAX_GRAD_NORM,
        "batches": [
            [_as_row(example) for example in examples[first : first + PAIRS_A_STEP]]
            for first in range(0, STEPS * PAIRS_A_STEP, PAIRS_A_STEP)
        ],
    }
    (out / "pairs.json").write_text(json.dumps(plan))


def _add_noise(model: torch.nn.Module, seed: int) -> None:
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


def ours(out: Path) -> None:
    """trimtab's own stages' steps over the batches, for every loss that is not there yet."""
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
        before = dpo.over_tokens(reference, batch, "reference", settings, "reference")
        return {**learn(policy, batch, before, settings), **learner.step()}

    return step


def theirs(out: Path, python: Path) -> None:
    """TRL's steps, each loss in a process of its own."""
    for loss in LOSSES:
        if not (out / f"theirs-{loss}.json").exists():
            how = (str(LOSSES[loss]), str(BETAS.get(loss, "none")))
            subprocess.run([python, Path(__file__).with_name("trl_side.py"), out, loss, *how], check=True)


def compare(out: Path) -> None:
    """A table of relative differences, in Markdown."""
    print("| loss | step-1 loss | difference | step-1 gradient norm, difference | largest of 20 losses |")
    print("| --- | --- | --- | --- | --- |")
    for loss in LOSSES:
        paths = out / f"ours-{loss}.json", out / f"theirs-{loss}.json"
        if not all(path.exists() for path in paths):
            continue
        mine, other = (json.loads(path.read_text()) for path in paths)
        steps = [_apart(a["loss"], b["loss"]) for a, b in zip(mine, other, strict=True)]
        norm = _apart(mine[0]["grad_norm"], other[0]["grad_norm"])
        print(f"| {loss} | {mine[0]['loss']:.6f} | {steps[0]:.1e} | {norm:.1e} | {max(steps):.1e} |")


def _apart(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


def main() -> None:
    """Parse and run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("prepare", "ours", "theirs", "compare"))
    parser.add_argument("--out", type=Path, required=True, help="folder for models, ids and results")
    parser.add_argument("--pairs", type=Path, help="prepare: comparisons")
    parser.add_argument("--python", type=Path, help="theirs: the interpreter of an environment with TRL")
    arguments = parser.parse_args()
    if arguments.part == "prepare":
        prepare(arguments.out, arguments.pairs)
    elif arguments.part == "theirs":
        theirs(arguments.out, arguments.python)
    else:
        {"ours": ours, "compare": compare}[arguments.part](arguments.out)


if __name__ == "__main__":
    main()

"""PPO and its sampler: trimtab beside TRL 1.12 and transformers' `generate`, side by side in one run.

    python benchmarks/ppo/bench.py --out ../trimtab-measured/ppo           # some hours; resumes
    python benchmarks/ppo/bench.py --out ../trimtab-measured/ppo --table   # what is there already

SmolLM2-135M-Instruct, prompts of 8 random tokens, up to 48 new ones. Cases: sampling alone, all responses at
the limit (batches of 32 and of 128) or ending where recorded lengths say; PPO from end to end, 32 episodes an
update and 4 epochs, likewise. Every measurement is a process of its own, arms take turns, and TRL gets an
environment of its own under OUT. How the two learn from the same stored rollouts: benchmarks/trl.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / name) for name in ("training", "trl")]
import torch
from compare import PPO_TRL, python_with
from ppo_table import report
from runner import Runner, machine
from units import CASES, HERE, Sampling, rounds

from trimtab.config import build
from trimtab.model.device import choose
from trimtab.model.names import resolve
from trimtab.model.save import save_model
from trimtab.model.scalar import new_scorer
from trimtab.runs.run import open_run
from trimtab.train.lora import new_scorer as new_adapters
from trimtab.train.settings import RewardSettings

MACHINE = "machine.json"
CALLS, UPDATES = 2, 1
"""Timed ones of a process."""


def prepare(out: Path, model: str) -> None:
    """The policy, a scorer with a fresh head, and one as adapters, unless they are there."""
    models = out / "models"
    if (out / MACHINE).exists():
        return
    models.mkdir(parents=True, exist_ok=True)
    policy = models / "policy"
    shutil.copytree(Path(resolve(model)), policy, dirs_exist_ok=True)
    numerics, generator = choose("cpu", "float32"), torch.Generator().manual_seed(1)
    whole = new_scorer(str(policy), numerics, generator, bytes_per_parameter=4)
    save_model(whole.model, whole.codec, models / "scorer")
    settings = build(RewardSettings, {"model": str(policy), "data": "none", "lora": {}})
    shutil.rmtree(out / "adapters", ignore_errors=True)
    with open_run(out / "adapters", "reward", settings, resume=False) as run:
        adapted = new_adapters(settings, settings.lora, numerics, run, generator)
        save_model(adapted.model, adapted.codec, models / "adapter")
    (out / MACHINE).write_text(json.dumps(machine(f"TRL {PPO_TRL}"), indent=1))


def measure(out: Path, arguments: argparse.Namespace) -> None:
    """All that is missing of the cases asked for."""
    prepare(out, arguments.model)
    trains = any(not isinstance(CASES[case], Sampling) for case in arguments.cases)
    theirs = str(HERE / "their_arm_ppo.py")
    runner = Runner(out, {theirs: str(python_with(out, PPO_TRL))} if trains else {})
    units = [
        unit
        for case in arguments.cases
        for unit in rounds(
            out, case, arguments.rounds, CALLS if isinstance(CASES[case], Sampling) else UPDATES
        )
    ]
    runner.expect(units)
    for unit in units:
        runner.run(unit)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for environments, models and results")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a model of Llama's shape")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    return parser.parse_args()


def main() -> None:
    """Do what is missing, print the table."""
    arguments = parse()
    out = arguments.out.resolve()
    if not arguments.table:
        try:
            measure(out, arguments)
        except KeyboardInterrupt:
            sys.exit("\nstopped; what is done is kept: the same command goes on")
    elif not (out / MACHINE).exists():
        sys.exit(f"nothing has been measured in {out}")
    text = report(out, json.loads((out / MACHINE).read_text()))
    (out / "ppo.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

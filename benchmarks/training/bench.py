"""Training with trimtab beside TRL 1.16.0: the same token ids, order and optimizer, in one run.

    python benchmarks/training/bench.py --out ../training            # all of it: many hours on two cores
    python benchmarks/training/bench.py --out ../training --table    # what is there already

For each case: TRL's best micro-batch is looked for; the numerics gate is passed, or the case is not timed;
then rounds. In a round every arm has two processes of its own, in the order ABCCBA. What is done is kept
after every process, Ctrl-C included, and is not done again.

Arms: `trimtab` (bfloat16, default settings); `trl-1`, `trl-4`, `trl-8` (TRL as shipped at so many pairs a
micro-batch); `trl-best` (checkpointing off, reference precomputed, logging off, the best micro-batch).
SmolLM2-135M-Instruct has to be there: `trimtab models get smollm2-135m-instruct`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import BUNDLED, CASES, write_batches, write_models
from plan import ARMS, SHIPPED, Plan, Units
from runner import Runner, environment, machine
from table import Found, report

sys.path.append(str(Path(__file__).parents[1] / "trl"))
from compare import STAGES_TRL, python_with

MACHINE = "machine.json"


def run_case(runner: Runner, case: str, plan: Plan, rounds: int) -> None:
    """Sweep, gate, rounds."""
    units = Units(runner.out, case, plan)
    for unit in units.sweep():
        runner.run(unit)
    found = Found(runner.out, case, plan)
    best = found.best_micro_batch()
    assert best is not None, "the sweep has run"
    for unit in units.gate(best):
        runner.run(unit)
    verdicts = found.verdicts()
    assert verdicts is not None, "the gate has run"
    if not all(verdict.passed for verdict in verdicts):
        runner.forget(case)
        print(f"{case}: the gate failed, so it is not timed", file=sys.stderr)
        return
    for unit in units.rounds(best, rounds):
        runner.run(unit)


def prepare(out: Path, cases: Sequence[str], plan: Plan, pairs: Path) -> None:
    """Models, token ids and facts of the machine that are not there yet."""
    before = read_plan(out)
    if before not in (None, plan):
        sys.exit(f"{out} was begun with {before}: go on with the same, or take another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "plan.json").write_text(json.dumps(asdict(plan)))
    write_models(out / "models")
    for case in cases:
        path = out / "cases" / f"{case}.json"
        write_batches(path, CASES[case], pairs, steps=plan.batches, pairs_a_step=plan.pairs_a_step)
    if not (out / MACHINE).exists():
        (out / MACHINE).write_text(json.dumps(machine(their_versions(out)), indent=1))


def their_versions(out: Path) -> str:
    """What is installed where TRL is."""
    code = (
        "import torch, transformers, trl; print(torch.__version__, transformers.__version__, trl.__version__)"
    )
    command = [str(python_with(out, STAGES_TRL)), "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return "TRL's environment has torch {}, transformers {}, trl {}".format(*found.stdout.split())


def planned(arguments: argparse.Namespace) -> Plan:
    """The plan asked for, without the arms whose micro-batch does not divide a step."""
    pairs = arguments.pairs_a_step
    arms = tuple(arm for arm in ARMS if arm in arguments.arms and pairs % SHIPPED.get(arm, 1) == 0)
    for arm in sorted(set(arguments.arms) - set(arms)):
        print(f"{arm} is left out: its micro-batch does not divide {pairs}", file=sys.stderr)
    return Plan(pairs, arguments.steps, arguments.gate_steps, arguments.short_gate_steps, arms)


def measure(out: Path, arguments: argparse.Namespace) -> None:
    """All that is missing of the cases asked for."""
    plan = planned(arguments)
    prepare(out, arguments.cases, plan, arguments.pairs)
    runner = Runner(out, {"their_arm.py": str(python_with(out, STAGES_TRL))})
    for case in arguments.cases:
        units = Units(out, case, plan)
        # The best micro-batch is not known yet; names and numbers of steps do not depend on it.
        runner.expect([*units.sweep(), *units.gate(1), *units.rounds(1, arguments.rounds)])
    for case in arguments.cases:
        run_case(runner, case, plan, arguments.rounds)


def read_plan(out: Path) -> Plan | None:
    """What the folder was begun with."""
    kept = out / "plan.json"
    if not kept.exists():
        return None
    found: dict[str, Any] = json.loads(kept.read_text())
    return Plan(**{**found, "arms": tuple(found["arms"])})


def table(out: Path) -> str:
    """Markdown of what is there, kept as training.md."""
    plan = read_plan(out)
    if plan is None or not (out / MACHINE).exists():
        sys.exit(f"nothing has been measured in {out}")
    text = report(out, plan, json.loads((out / MACHINE).read_text()))
    (out / "training.md").write_text(text)
    return text


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for environments, models and results")
    parser.add_argument(
        "--pairs", type=Path, default=BUNDLED, help="comparisons; default: the bundled HH-RLHF sample"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs-a-step", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="timed ones of a process")
    parser.add_argument("--gate-steps", type=int, default=20, help="of trimtab and TRL at its best")
    parser.add_argument("--short-gate-steps", type=int, default=20, help="of TRL as shipped, in float32")
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
    print(table(out))


if __name__ == "__main__":
    main()

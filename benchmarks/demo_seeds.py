"""The demo with several seeds, beside what it promises: reward, distance, variety, time and memory.

    python benchmarks/demo_seeds.py --out ../trimtab-measured/demo

A seed that is done is not run again. Each runs in a process of its own, timed from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.arena.findings import Findings, PolicyResult, read_findings

GAIN, NATS, VARIETY, SECONDS, BYTES = 0.2, 6.0, 0.8, 300.0, 3 * 1024**3
"""At least, at most, at least of SFT's, at most, at most."""


@dataclass(frozen=True)
class Method:
    """One method's answers to the test prompts."""

    reward: float
    """The gold scorer's mean P(positive)."""
    gain: float
    """Above SFT, prompt by prompt."""
    gain_low: float
    gain_high: float
    """95 %, bootstrap over prompts."""
    kl: float
    """Nats a response from SFT, mean."""
    variety: float
    """Distinct-2 over SFT's."""

    @property
    def holds(self) -> bool:
        return self.gain >= GAIN and self.kl <= NATS and self.variety >= VARIETY


@dataclass(frozen=True)
class Seed:
    """What one run of the demo gave."""

    seed: int
    headline: str
    sft_reward: float
    ppo: Method
    dpo: Method
    prompts: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Of the largest process."""

    @property
    def holds(self) -> bool:
        within = self.wall_s <= SECONDS and self.peak_bytes <= BYTES
        return self.ppo.holds and self.dpo.holds and within


def main() -> None:
    """Run what is missing, print the table, keep the figures; 1 where something promised does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and the figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    done = [measured(seed, arguments.out) for seed in arguments.seeds]
    print(table(done))
    sys.exit(not all(seed.holds for seed in done))


def measured(seed: int, out: Path) -> Seed:
    """The figures of one seed, run now or before."""
    kept = out / f"seed-{seed}.json"
    if not kept.exists():
        cost = run(seed, out / str(seed))
        figures = asdict(read(seed, out / str(seed), **cost))
        kept.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    return Seed(**{**found, "ppo": Method(**found["ppo"]), "dpo": Method(**found["dpo"])})


def run(seed: int, folder: Path) -> dict[str, float]:
    """`trimtab demo` in a folder that is new, since its time counts from the beginning."""
    if folder.exists():
        sys.exit(f"{folder} holds a run that was not measured to its end: delete it and start again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "trimtab", "demo", "--seed", str(seed), "--out", str(folder)]
    begun = time.perf_counter()
    with Path(f"{folder}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the demo failed: see {folder}.log")
    return {
        "wall_s": time.perf_counter() - begun,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": max(used.ru_maxrss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024,
    }


def read(seed: int, folder: Path, **cost: float) -> Seed:
    """The figures that the demo's report holds."""
    findings = read_findings(folder / "compare" / "report.json")
    policies = {policy.name: policy for policy in findings.policies}
    sft = policies["sft"]
    assert sft.judge_reward, "the gold scorer gives scores"
    return Seed(
        seed=seed,
        headline=findings.headline,
        sft_reward=sft.judge_reward.estimate,
        ppo=_method(findings, policies["ppo"], sft),
        dpo=_method(findings, policies["dpo"], sft),
        prompts=sft.prompts,
        **cost,
    )


def _method(findings: Findings, policy: PolicyResult, sft: PolicyResult) -> Method:
    (match,) = (match for match in findings.matches if (match.left, match.right) == (policy.name, "sft"))
    assert match.difference and policy.judge_reward, "the gold scorer gives scores"
    gain = match.difference.mean
    return Method(
        reward=policy.judge_reward.estimate,
        gain=gain.estimate,
        gain_low=gain.low,
        gain_high=gain.high,
        kl=policy.kl.estimate,
        variety=policy.distinct / sft.distinct,
    )


def table(seeds: list[Seed]) -> str:
    """Markdown: a row for each seed and method, then time and memory."""
    lines = [
        "| seed | method | gold P(positive) | above SFT | KL, nats | distinct-2 of SFT's |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for seed in seeds:
        for name, one in (("PPO", seed.ppo), ("DPO", seed.dpo)):
            gain = f"+{one.gain:.3f} [{one.gain_low:.3f}, {one.gain_high:.3f}]"
            cells = (seed.seed, name, f"{one.reward:.3f}", gain, f"{one.kl:.2f}", f"{one.variety:.2f}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| seed | SFT | wall | processor | memory | the report says |", "| --- " * 6 + "|"]
    for seed in seeds:
        memory = f"{seed.peak_bytes / 1024**3:.1f} GiB"
        cells = (seed.seed, f"{seed.sft_reward:.3f}", f"{seed.wall_s:.0f} s", f"{seed.cpu_s:.0f} s", memory)
        lines.append("| " + " | ".join(map(str, (*cells, seed.headline))) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

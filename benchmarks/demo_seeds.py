"""The demo with several seeds, beside what it promises: reward, distance, variety, time and memory.

    python benchmarks/demo_seeds.py --out ../trimtab-measured/demo

A seed that is done is not run again. Each runs in a process of its own, timed from its start to its end.

The demo's own report asks each policy once a prompt: its gain over SFT is known to 0.025, more than lies
between two seeds. So each policy is asked again, several times a prompt, and what is promised is held against
that; both figures are in the table.
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

import numpy as np

from trimtab.arena.findings import Findings, read_findings
from trimtab.arena.play import seeds
from trimtab.data.tokens import Example
from trimtab.demo.assets import GOLD, MODEL, prompts
from trimtab.demo.run import ASKED
from trimtab.judges.judge import Answer
from trimtab.judges.words import load_word_judge
from trimtab.model.device import choose
from trimtab.model.policy import load_policy
from trimtab.rollout.answers import answer
from trimtab.rollout.types import Sampling
from trimtab.statistics.bootstrap import bootstrap_mean

ANSWERS = 8
"""A prompt, when the policies are asked again."""
GAIN, NATS, VARIETY, SECONDS, BYTES = 0.2, 6.0, 0.8, 300.0, 3 * 1024**3
"""At least, at most, at least of SFT's, at most, at most."""


@dataclass(frozen=True)
class Method:
    """One method's answers to the test prompts."""

    reward: float
    """The gold scorer's mean P(positive), of `ANSWERS` answers a prompt."""
    gain: float
    """Of this above SFT's, prompt by prompt."""
    gain_low: float
    gain_high: float
    """95 %, bootstrap over prompts."""
    report_gain: float
    report_low: float
    report_high: float
    """The same in the demo's report, of one answer a prompt."""
    kl: float
    """Nats a response from SFT, mean, in the report."""
    variety: float
    """Distinct-2 over SFT's, in the report."""

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
    sft = asked_again(MODEL)
    return Seed(
        seed=seed,
        headline=findings.headline,
        sft_reward=float(np.mean(sft)),
        ppo=_method(findings, "ppo", folder, sft),
        dpo=_method(findings, "dpo", folder, sft),
        prompts=len(sft),
        **cost,
    )


def _method(findings: Findings, name: str, folder: Path, sft: list[float]) -> Method:
    (match,) = (match for match in findings.matches if (match.left, match.right) == (name, "sft"))
    policies = {policy.name: policy for policy in findings.policies}
    assert match.difference, "the gold scorer gives scores"
    reported = match.difference.mean
    rewards = asked_again(str(folder / name))
    gain = bootstrap_mean(np.subtract(rewards, sft), seed=0)
    return Method(
        reward=float(np.mean(rewards)),
        gain=gain.estimate,
        gain_low=gain.low,
        gain_high=gain.high,
        report_gain=reported.estimate,
        report_low=reported.low,
        report_high=reported.high,
        kl=policies[name].kl.estimate,
        variety=policies[name].distinct / policies["sft"].distinct,
    )


def asked_again(source: str) -> list[float]:
    """The gold scorer's mean P(positive) of `ANSWERS` answers to each test prompt."""
    policy = load_policy(source, choose("cpu", "float32"), bytes_per_parameter=4)
    asked = [text for text in prompts("test")[ASKED["test"]] for _ in range(ANSWERS)]
    examples = [Example(policy.codec.encode_prompt(text, 32)[0], ()) for text in asked]
    sampling = Sampling(max_new=16, stop_ids=(policy.codec.stop_id,))
    rollouts = answer(policy, examples, sampling, seeds(0, len(asked), purpose="again"), name=source)
    texts = [
        policy.codec.decode_response(text, rollout.response.ids)
        for text, rollout in zip(asked, rollouts, strict=True)
    ]
    scores = load_word_judge(GOLD).score([Answer(*pair) for pair in zip(asked, texts, strict=True)])
    means: list[float] = np.reshape(scores, (-1, ANSWERS)).mean(axis=1).tolist()
    return means


def table(seeds: list[Seed]) -> str:
    """Markdown: a row for each seed and method, then time and memory."""
    lines = [
        "| seed | method | gold P(positive) | above SFT | in its report | KL, nats | distinct-2 of SFT's |",
        "| --- " * 7 + "|",
    ]
    for seed in seeds:
        for name, one in (("PPO", seed.ppo), ("DPO", seed.dpo)):
            gain = f"+{one.gain:.3f} [{one.gain_low:.3f}, {one.gain_high:.3f}]"
            reported = f"+{one.report_gain:.3f} [{one.report_low:.3f}, {one.report_high:.3f}]"
            far = (f"{one.kl:.2f}", f"{one.variety:.2f}")
            cells = (seed.seed, name, f"{one.reward:.3f}", gain, reported, *far)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| seed | SFT | wall | processor | memory | the report says |", "| --- " * 6 + "|"]
    for seed in seeds:
        memory = f"{seed.peak_bytes / 1024**3:.1f} GiB"
        cells = (seed.seed, f"{seed.sft_reward:.3f}", f"{seed.wall_s:.0f} s", f"{seed.cpu_s:.0f} s", memory)
        lines.append("| " + " | ".join(map(str, (*cells, seed.headline))) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

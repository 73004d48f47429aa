"""Made-up findings: every number and text in it is invented for the tests."""

from __future__ import annotations

import math

import pytest

from trimtab.arena.cost import HumanWork, StageCost
from trimtab.arena.findings import (
    Answer,
    Curve,
    Fact,
    Findings,
    PolicyResult,
    RewardCard,
    Sample,
    curve,
)
from trimtab.arena.winrate import JudgeQuality, Match
from trimtab.judges.quality import PairQuality
from trimtab.records import Message
from trimtab.statistics.calibration import calibration, from_margins
from trimtab.statistics.intervals import Interval, wilson
from trimtab.statistics.length_control import LengthControlled
from trimtab.statistics.paired import sign_test
from trimtab.statistics.ranking import Ranking
from trimtab.statistics.rates import RateInterval


def interval(estimate: float, half: float, n: int = 200) -> Interval:
    return Interval(estimate, estimate - half, estimate + half, 0.95, n, "BCa bootstrap over prompts")


def policy(name: str, judge: float, proxy: float, kl: float, tokens: float, stopped: int) -> PolicyResult:
    return PolicyResult(
        name=name,
        method=name.lower(),
        prompts=200,
        run=f"runs/test-{name.lower()}",
        seed=3,
        judge_reward=interval(judge, 0.083),
        proxy_reward=interval(proxy, 0.071),
        kl=interval(kl, 0.214 if kl else 0.0),
        response_tokens=interval(tokens, 2.9),
        stopped=wilson(stopped, 200),
        repetition=interval(0.041, 0.012),
        distinct=0.62,
    )


def match(left: str, right: str, wins: int, ties: int, losses: int) -> Match:
    n = wins + ties + losses
    rate = interval((wins + ties / 2) / n, 0.068, n)
    test = sign_test(wins, losses, ties)
    controlled = LengthControlled(
        raw=rate,
        controlled=interval(rate.estimate - 0.02, 0.07, n),
        length_effect=interval(0.3, 0.2, n),
        mean_left=212.0,
        mean_right=190.0,
        caution="",
    )
    return Match(
        left=left,
        right=right,
        rate=RateInterval(bootstrap=rate, score=rate, caution=""),
        controlled=controlled,
        test=test,
        p_adjusted=min(1.0, 3 * test.p_value),
        unjudged=0,
    )


def card(role: str) -> RewardCard:
    margins = [math.sin(index) + 0.3 for index in range(250)]
    return RewardCard(
        name=f"runs/test-{role}",
        role=role,
        quality=PairQuality(
            accuracy=wilson(148, 250),
            ties=1,
            longer_chosen=wilson(70, 106),
            shorter_chosen=wilson(78, 144),
            calibration=calibration(from_margins(margins), seed=0, rounds=200),
        ),
    )


def sample(index: int) -> Sample:
    prompt = (
        Message("system", "You are a helpful assistant."),
        Message("user", f"Test question {index}: how do I stop my neighbour's dog from barking at night?"),
        Message("assistant", "Have you talked to your neighbour?"),
        Message("user", "Yes, and it did not help.\nWhat else is there?"),
    )
    texts = {
        "SFT": "You could call the dog catcher. " * 3,
        "PPO": "I am sorry to hear that. " * 8,
        "DPO": "Try a calm letter first.\n\n1. Say when it happens.\n2. Ask the town's mediator.",
    }
    answers = tuple(
        Answer(
            policy=name,
            text=text,
            judge_score=0.31 * place - 0.4 + 0.1 * index,
            proxy_score=0.9 * (place == 1) - 0.1,
            kl=2.5 * place - 0.01,
            tokens=20 + 9 * place,
            ended="length" if place == 1 else "stop",
        )
        for place, (name, text) in enumerate(texts.items())
    )
    return Sample(prompt=prompt, answers=answers, preferred=("DPO", "PPO", "tie")[index % 3], gap=1.5 - index)


def curves() -> tuple[Curve, ...]:
    sft = [{"step": step, "loss": 1.6 + 1.4 * math.exp(-step / 12)} for step in range(60)]
    reward = [{"step": step, "loss": 0.7 - 0.002 * step, "accuracy": 0.5 + step / 400} for step in range(40)]
    ppo = [
        {
            "step": step,
            "kl": 0.1 * step,
            "proxy_reward": 0.2 + 0.6 * math.sin(step / 30),
            "entropy": math.nan if step == 3 else 2.0,
        }
        for step in range(48)
    ]
    dpo = [{"step": step, "loss": 0.693 - 0.0015 * step, "margin": 0.01 * step} for step in range(50)]
    return (
        curve("sft", "loss", sft),
        curve("reward", "loss", reward),
        curve("reward", "accuracy", reward),
        *(curve("ppo", metric, ppo) for metric in ("kl", "proxy_reward", "entropy")),
        *(curve("dpo", metric, dpo) for metric in ("loss", "margin")),
    )


def costs() -> tuple[StageCost, ...]:
    rows = (
        ("sft", 1204.0, 2310.5, 3_420_000_000, 310_000, 0),
        ("reward", 1490.0, 2890.0, 3_910_000_000, 402_000, 0),
        ("judge", 1502.0, 2901.0, 3_900_000_000, 399_000, 0),
        ("ppo", 3605.0, 7011.0, 5_120_000_000, 131_072, 32_768),
        ("reference", 181.0, 350.0, 2_050_000_000, 0, 0),
        ("dpo", 1322.0, 2600.0, 4_010_000_000, 402_000, 0),
        ("measuring", 48.3, 91.0, 1_900_000_000, 0, 38_400),
    )
    return tuple(
        StageCost(
            stage=stage, run=f"runs/test-{stage}", wall_s=wall, cpu_s=cpu, peak_memory_bytes=memory,
            tokens_trained=trained, tokens_generated=generated, device="cpu, 2 cores",
        )
        for stage, wall, cpu, memory, trained, generated in rows
    )  # fmt: skip


@pytest.fixture
def findings() -> Findings:
    return Findings(
        title="Test data, not a result: SFT, PPO and DPO on invented prompts",
        policies=(
            policy("SFT", 0.123, -0.051, 0.0, 41.7, 131),
            policy("PPO", 0.287, 0.846, 6.417, 58.3, 92),
            policy("DPO", 0.412, 0.214, 3.951, 47.6, 160),
        ),
        matches=(
            match("DPO", "PPO", 117, 4, 79),
            match("PPO", "SFT", 101, 10, 89),
            match("DPO", "SFT", 120, 12, 68),
        ),
        judge=JudgeQuality(
            name="runs/test-judge",
            accuracy=wilson(148, 250),
            rule=wilson(144, 250),
            rule_name="shorter wins",
        ),
        samples=tuple(sample(index) for index in range(3)),
        ranking=Ranking(
            names=("SFT", "PPO", "DPO"),
            strengths=(interval(-0.22, 0.1), interval(0.0, 0.1), interval(0.22, 0.1)),
            ranks=(3, 1, 1),
            caution="",
        ),
        cards=(card("judge"), card("proxy")),
        costs=costs(),
        human=HumanWork(
            pairs=(("ppo", 1700), ("dpo", 1700), ("judge", 850)), shared=(("ppo", "dpo"),), held_out_pairs=250
        ),
        curves=curves(),
        facts=(
            Fact(group="Data", name="training pairs", value="1,700, sha256 1f0e" + "ab" * 30),
            Fact(group="Data", name="held-out pairs", value="250"),
            Fact(group="PPO", name="learning rate", value="1e-5"),
            Fact(group="PPO", name="parent run", value="runs/test-sft"),
        ),
        caveats=("All of this is invented: it is the tests' own page.",),
    )

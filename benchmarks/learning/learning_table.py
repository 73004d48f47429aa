"""The markdown of what learning.py has found, a line a promise first; and the pictures' data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from learning_pictures import draw_betas, draw_learning
from learning_plan import EPISODES, GAIN, GAIN_LOW, NATS, NEAR, VARIETY, Plan
from overoptimisation import Curve, curve, finding

Found = dict[str, dict[str, Any]]


def read(out: Path) -> Found:
    """Every result that is there, by its part."""
    files = sorted((out / "results").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def table(plan: Plan, out: Path) -> str:
    """Everything that there is to say so far."""
    found = read(out)
    sections = [
        ["# PPO learns", "", "    make learning"],
        promises(plan, found),
        list(_surroundings(found)),
        list(_prepared(found)),
        list(_policies(plan, found)),
        list(_runs(plan, found)),
        list(_targets(plan, found)),
        list(_betas(plan, found)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def promises(plan: Plan, found: Found) -> list[str]:
    """Each promise, what was found, and whether it was met."""
    rows = [
        *_promises_of_policies(plan, found),
        _first_minibatch(plan, found),
        *(_target_kept(plan, found, target) for target in plan.targets),
        ("over-optimisation looked for at fixed weights, reported either way", *_looked_for(plan, found)),
    ]
    lines = ["| asked for | found | |", "| --- | --- | --- |"]
    for asked_for, said, met in rows:
        verdict = "not measured yet" if met is None else "met" if met else "**not met**"
        lines.append(f"| {asked_for} | {said} | {verdict} |")
    return lines


Row = tuple[str, str, bool | None]


def _promises_of_policies(plan: Plan, found: Found) -> Iterator[Row]:
    names = [f"evaluate-{seed}" for seed in plan.seeds]
    one = [found[name] for name in names if name in found]
    whole = len(one) == len(names)
    sft = found.get("evaluate-sft")

    def verdict(values: Sequence[bool]) -> bool | None:
        return all(values) if whole else None

    gains = [each["gain"] for each in one]
    said = ", ".join(_signed(gain) for gain in gains)
    yield f"gold above SFT by at least {GAIN:.2f} in each seed", said, verdict([g[0] >= GAIN for g in gains])
    said = ", ".join(f"{gain[1]:+.3f}" for gain in gains)
    yield f"its lower 95 % bound above +{GAIN_LOW:.2f}", said, verdict([g[1] > GAIN_LOW for g in gains])
    said = ", ".join(f"{each['kl'][0]:.2f}" for each in one)
    yield f"KL at most {NATS:g} nats a response", said, verdict([each["kl"][0] <= NATS for each in one])
    shares = [each["distinct"] / sft["distinct"] for each in one] if sft else []
    said = ", ".join(f"{share:.3f}" for share in shares)
    yield f"distinct-2 at least {VARIETY:g} of SFT's", said, verdict([share >= VARIETY for share in shares])
    taken = [found[name]["episodes"] for name in (f"ppo-{seed}" for seed in plan.seeds) if name in found]
    said = ", ".join(f"{episodes:,}" for episodes in taken)
    enough = len(taken) == len(plan.seeds)
    met = all(episodes <= EPISODES for episodes in taken) if enough else None
    yield f"within {EPISODES:,} episodes", said, met


def _first_minibatch(plan: Plan, found: Found) -> Row:
    asked_for = "the first minibatch: approximate KL 0, ratio 1, clip fraction 0"
    runs = [found[f"ppo-{seed}"] for seed in plan.seeds if f"ppo-{seed}" in found]
    if len(runs) < len(plan.seeds):
        return asked_for, "", None
    worst = {
        name: max(abs(run["first_minibatch"][name]) for run in runs)
        for name in ("approximate_kl", "ratio_error", "clip_fraction")
    }
    logged = max(run["first_ratio_error"] for run in runs)
    said = (
        f"at most {worst['approximate_kl']:.1e}, {worst['ratio_error']:.1e} away (in the runs' own logs "
        f"{logged:.1e}), {worst['clip_fraction']:.1e}"
    )
    return asked_for, said, max(*worst.values(), logged) < 1e-6


def _target_kept(plan: Plan, found: Found, target: float) -> Row:
    asked_for = f"mean KL of the last {plan.last} updates within {100 * NEAR:.0f} % of {target:g} nats"
    names = {f"target-{target:g}-{seed}": "bundled" for seed in plan.seeds}
    if target == plan.real_target:
        names |= {f"ppo-{seed}": "SmolLM2" for seed in plan.seeds}
    said, met = [], []
    for model in dict.fromkeys(names.values()):
        means = [last_kl(plan, found[name]) for name, of in names.items() if of == model and name in found]
        if means:
            said.append(f"{model} {', '.join(f'{mean:.2f}' for mean in means)}")
        met += [abs(mean / target - 1) <= NEAR for mean in means]
    return asked_for, "; ".join(said), all(met) if len(met) == len(names) else None


def last_kl(plan: Plan, run: Mapping[str, Any]) -> float:
    """The mean KL of the last updates' own rollouts, nats a response."""
    return fmean(row["kl"] for row in run["updates"][-plan.last :])


def _looked_for(plan: Plan, found: Found) -> tuple[str, bool | None]:
    curves = curves_of(plan, found)
    shown = [beta for beta, runs in curves.items() if finding(beta, runs).over_optimised]
    said = f"found at β = {', '.join(f'{beta:g}' for beta in shown)}" if shown else "not found"
    whole = sum(map(len, curves.values())) == len(plan.betas) * len(plan.seeds)
    return said if curves else "", True if whole else None


def curves_of(plan: Plan, found: Found) -> dict[float, list[Curve]]:
    """The curves that are there, by weight."""
    curves: dict[float, list[Curve]] = {}
    for beta in plan.betas:
        names = [f"beta-{beta:g}-{seed}" for seed in plan.seeds]
        if runs := [curve(found[name], plan.block) for name in names if name in found]:
            curves[beta] = runs
    return curves


def _surroundings(found: Found) -> Iterator[str]:
    facts = found.get("prepare") or found.get("prepare-bundled")
    if facts is None:
        return
    packages, hardware = facts["packages"], facts["hardware"]
    dates = sorted({one["date"] for one in found.values() if "date" in one})
    commits = list(dict.fromkeys(one["commit"] for one in found.values() if "commit" in one))
    yield f"- date: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
    yield f"- CPU: {hardware['processor']}, {hardware['cores']} cores, {facts['threads']} threads"
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers"))
    yield f"- versions: trimtab {facts['trimtab']}, Python {facts['python']}, {versions}"
    yield f"- commits, + where files differed: {', '.join(map(_commit, commits))}"
    yield "- plan: benchmarks/learning/learning_plan.py; prompts, gold scorer, bundled model: the demo's"


def _commit(text: str) -> str:
    return text[:10] + ("+" if text.endswith("+") else "")


def _prepared(found: Found) -> Iterator[str]:
    names = {"prepare": "SmolLM2-135M-Instruct", "prepare-bundled": "bundled model"}
    if not any(name in found for name in names):
        return
    yield "## What PPO begins from"
    yield ""
    yield "| | learned from | dev before PPO | time |"
    yield "| --- " * 4 + "|"
    for name, title in names.items():
        for stage, data in found.get(name, {}).get("data", {}).items():
            dev = found[name]["dev"][stage]
            what = "accuracy" if "dev_accuracy" in dev else "loss"
            ends = [dev[f"dev_{what}{end}"] for end in ("", "_low", "_high")]
            kind = "sentences" if stage == "sft" else "pairs"
            told = f"{what} {ends[0]:.3f} [{ends[1]:.3f}, {ends[2]:.3f}] of {data['dev']:,}"
            taken = f"{found[name]['seconds'][stage]:.0f} s"
            yield f"| {title}, {stage} | {data['train']:,} {kind} | {told} | {taken} |"


def _policies(plan: Plan, found: Found) -> Iterator[str]:
    if "evaluate-sft" not in found:
        return
    sft = found["evaluate-sft"]
    yield "## SmolLM2 on the test prompts"
    yield ""
    yield (
        f"{sft['prompts']} prompts that nobody has learned from; SFT {sft['answers']} answers a prompt, PPO "
        f"{plan.answers}. 95 % intervals: bootstrap over prompts. Distinct-2: of one answer a prompt, "
        "averaged over the answers."
    )
    yield ""
    yield "| policy | gold P(+) | above SFT | KL, nats | distinct-2 | of SFT's | tokens | stopped | proxy |"
    yield "| --- " * 9 + "|"
    yield (
        f"| SFT | {sft['gold']:.3f} | | 0 | {sft['distinct']:.3f} | 1 | {sft['length']:.1f} | "
        f"{100 * sft['stopped']:.0f} % | {sft['proxy']:+.2f} |"
    )
    for n, one in sft["best_of"].items():
        share = one["distinct"] / sft["distinct"]
        yield (
            f"| best of {n} | {one['gold']:.3f} | {_signed(one['gain'])} | at most {one['kl_at_most']:.2f} | "
            f"{one['distinct']:.3f} | {share:.3f} | | | |"
        )
    for seed in plan.seeds:
        if one := found.get(f"evaluate-{seed}"):
            kl, low, high = one["kl"]
            yield (
                f"| PPO, seed {seed} | {one['gold']:.3f} | {_signed(one['gain'])} | "
                f"{kl:.2f} [{low:.2f}, {high:.2f}] | {one['distinct']:.3f} | "
                f"{one['distinct'] / sft['distinct']:.3f} | {one['length']:.1f} | "
                f"{100 * one['stopped']:.0f} % | {one['proxy']:+.2f} |"
            )
    yield from _examples(plan, found)


def _examples(plan: Plan, found: Found) -> Iterator[str]:
    for seed in plan.seeds:
        if one := found.get(f"evaluate-{seed}"):
            yield ""
            yield f"Seed {seed} writes, the first {len(one['examples'])} test prompts:"
            yield ""
            yield from (f"- {' '.join(text.split())}" for text in one["examples"])
            return


def _runs(plan: Plan, found: Found) -> Iterator[str]:
    names = [f"ppo-{seed}" for seed in plan.seeds if f"ppo-{seed}" in found]
    if not names:
        return
    yield "## SmolLM2's runs"
    yield ""
    yield (
        f"| seed | episodes | KL of the last {plan.last} updates | β at the end | gold of the rollouts, "
        f"first and last {plan.last // 2} updates | first minibatch: approximate KL, ratio error, clip "
        "fraction | time | memory |"
    )
    yield "| --- " * 8 + "|"
    for name in names:
        run, rows = found[name], found[name]["updates"]
        first, last = (
            fmean(row["gold"] for row in part) for part in (rows[: plan.last // 2], rows[-plan.last // 2 :])
        )
        seen = run["first_minibatch"]
        healthy = ", ".join(f"{seen[key]:.1e}" for key in ("approximate_kl", "ratio_error", "clip_fraction"))
        yield (
            f"| {run['seed']} | {run['episodes']:,} | {last_kl(plan, run):.2f} | "
            f"{rows[-1]['kl_weight']:.3f} | {first:.3f}, {last:.3f} | {healthy} | "
            f"{run['seconds'] / 60:.0f} min | {run['peak_bytes'] / 1e9:.1f} GB |"
        )


def _targets(plan: Plan, found: Found) -> Iterator[str]:
    names = [f"target-{target:g}-{seed}" for target in plan.targets for seed in plan.seeds]
    if not any(name in found for name in names):
        return
    yield "## Adaptive KL on the bundled model"
    yield ""
    yield f"All begin with β = {plan.kl_weight:g}, fixed beforehand for both targets and for SmolLM2."
    yield ""
    yield f"| target | seed | KL of the last {plan.last} updates | of the target | β at the end | updates |"
    yield "| --- " * 6 + "|"
    for run in (found[name] for name in names if name in found):
        mean, rows = last_kl(plan, run), run["updates"]
        yield (
            f"| {run['target']:g} | {run['seed']} | {mean:.2f} | {mean / run['target']:.2f} | "
            f"{rows[-1]['kl_weight']:.3f} | {len(rows)} |"
        )


def _betas(plan: Plan, found: Found) -> Iterator[str]:
    curves = curves_of(plan, found)
    if not curves:
        return
    yield "## Over-optimisation on the bundled model"
    yield ""
    yield (
        f"{plan.beta_episodes:,} episodes at a fixed β; each row of figures is a seed, a column a block of "
        f"{plan.block} updates: gold P(positive) of their rollouts at their mean KL in nats. A seed's peak "
        "is looked for in the other seeds; 95 % intervals by the spread of the answers."
    )
    yield ""
    for beta, runs in curves.items():
        yield f"- {finding(beta, runs).text()}"
    yield ""
    blocks = max(len(one.gold) for runs in curves.values() for one in runs)
    yield "| β | seed | | " + " | ".join(map(str, range(1, blocks + 1))) + " |"
    yield "| --- " * (blocks + 3) + "|"
    for beta, runs in curves.items():
        for one in runs:
            for label, values, digits in (("KL", one.kl, 1), ("gold", one.gold, 3), ("proxy", one.proxy, 2)):
                cells = " | ".join(f"{value:.{digits}f}" for value in values)
                yield f"| {beta:g} | {one.seed} | {label} | {cells} |"


def _signed(interval: Sequence[float]) -> str:
    return f"{interval[0]:+.3f} [{interval[1]:+.3f}, {interval[2]:+.3f}]"


def pictures(plan: Plan, out: Path, folder: Path) -> None:
    """smollm2.png and over-optimisation.png, of what is there."""
    found = read(out)
    folder.mkdir(parents=True, exist_ok=True)
    if curves := curves_of(plan, found):
        draw_betas(curves, folder / "over-optimisation.png")
    runs = [found[f"ppo-{seed}"] for seed in plan.seeds if f"ppo-{seed}" in found]
    if runs:
        draw_learning(runs, _places(plan, found), plan.real_target, folder / "smollm2.png")


def _places(plan: Plan, found: Found) -> dict[str, dict[str, float]]:
    """KL and gold of each policy."""
    places: dict[str, dict[str, float]] = {}
    if sft := found.get("evaluate-sft"):
        places["SFT"] = {"kl": 0.0, "gold": sft["gold"]}
        for n, one in sft["best_of"].items():
            places[f"best of {n}"] = {"kl": one["kl_at_most"], "gold": one["gold"]}
    for seed in plan.seeds:
        if one := found.get(f"evaluate-{seed}"):
            places[f"PPO {seed}"] = {"kl": one["kl"][0], "gold": one["gold"]}
    return places

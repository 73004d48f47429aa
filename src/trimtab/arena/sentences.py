"""What findings mean and what they do not show, in plain sentences."""

from __future__ import annotations

from trimtab.arena.findings import Findings
from trimtab.arena.winrate import CHANCE, Match
from trimtab.statistics.intervals import number
from trimtab.statistics.length_control import LengthControlled
from trimtab.statistics.paired import comparisons_line
from trimtab.statistics.sample_size import sample_size_line


def meaning(findings: Findings) -> tuple[str, ...]:
    """The headline in plain words: what it is worth, what length has to do with it, what it would take."""
    match = findings.matches[0]
    ahead = match.left if match.win_rate.estimate >= CHANCE else match.right
    of_100 = round(100 * match.rate_of(ahead).estimate)
    said = []
    if not findings.judge.can_tell:
        said.append(
            "Until the judge agrees with people more often than a coin, no rate below means anything."
        )
    elif match.win_rate.contains(CHANCE):
        said.append("The interval holds 50 %, so with these prompts the two cannot be told apart.")
    elif match.winner:
        said.append(f"Of 100 more prompts of this kind, this judge would prefer {ahead} on about {of_100}.")
    said += [match.rate.caution] if match.rate.caution else []
    if match.clear_alone:
        said.append(
            f"The interval alone excludes 50 %, but with {len(findings.matches)} comparisons one such is no "
            "surprise: adjusted for their number, the difference is not clear."
        )
    said.append(sample_size_line(match.wins + match.losses))
    if match.controlled is not None:
        said.append(_length_sentence(match, match.controlled))
    return tuple(said)


def _length_sentence(match: Match, controlled: LengthControlled) -> str:
    left, right = number(controlled.mean_left, 0), number(controlled.mean_right, 0)
    caution = f" {controlled.caution}" if controlled.caution else ""
    return (
        f"{match.left}'s answers have {left} characters on average and {match.right}'s {right}; at equal "
        f"length {match.left} would be preferred on {controlled.controlled.percent()}.{caution}"
    )


def limits(findings: Findings) -> tuple[str, ...]:
    """What the numbers do not show, the comparison's own caveats last."""
    runs = "One training run of each method" if findings.seeds == 1 else f"{findings.seeds} training runs"
    said = [
        f"{runs}. The intervals say what other prompts could change; what another "
        "seed could change is not in them.",
        "The judge is a model. Its verdicts count for as much as its agreement with people, shown at "
        "the top.",
    ]
    if any(policy.method == "ppo" for policy in findings.policies):
        said.append("A PPO run is also told, by a penalty, not to run into the length limit.")
    if any(policy.judge_reward for policy in findings.policies):
        said.append("Rewards have units of their own: compare them within a column.")
    if any(policy.proxy_reward for policy in findings.policies):
        said.append(
            "The proxy is the reward model that PPO was trained on: a high proxy reward alone is no merit."
        )
    if any(policy.witness_reward for policy in findings.policies):
        said.append(
            "The witness is another judge, of another family: where a policy gains by the judge and not by "
            "the witness, it has learned to please the judge."
        )
    if any(policy.method == "best of n" for policy in findings.policies):
        said.append(
            "Best of n needs no training beyond the proxy's, but each of its answers costs n samples and n "
            "scores. Its KL is the known log n − (n − 1)/n, not measured."
        )
    if several := comparisons_line(len(findings.matches)):
        said.append(several)
    unjudged = sum(match.unjudged for match in findings.matches)
    if unjudged:
        said.append(f"On {unjudged} pairs of answers the judge gave no verdict; they are in no rate.")
    if findings.ranking is not None and findings.ranking.caution:
        said.append(findings.ranking.caution)
    return (*said, *findings.caveats)

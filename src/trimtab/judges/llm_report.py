"""What an LLM judge's verdicts add up to, and how far its word goes.

The unit is the comparison. Rates are over those whose both orders were read: identical responses
were never asked about, and a comparison that is left out has no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trimtab.judges.both_orders import Judgment
from trimtab.judges.llm_settings import LLMJudgeSettings
from trimtab.judges.replies import Reply
from trimtab.statistics.intervals import Interval, wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What answers cost in tokens, as the endpoint counted them."""

    input: int
    output: int
    uncounted: int
    """Answers for which the endpoint did not say; the sums are too low by theirs."""

    @classmethod
    def of(cls, replies: Iterable[Reply]) -> Tokens:
        """The sum over answers."""
        counts = [(reply.input_tokens, reply.output_tokens) for reply in replies]
        return cls(
            input=sum(one or 0 for one, _ in counts),
            output=sum(one or 0 for _, one in counts),
            uncounted=sum(None in pair for pair in counts),
        )

    def price(self, settings: LLMJudgeSettings) -> float | None:
        """In the currency of the settings; None where they do not give both prices."""
        if settings.price_input is None or settings.price_output is None:
            return None
        return (self.input * settings.price_input + self.output * settings.price_output) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What went over the wire, and what did not need to. A question is one comparison in one order."""

    questions: int
    """Different questions; the same question about two rows is asked once."""
    from_cache: int
    requests: int
    """Sent in this run, further tries included."""
    retries: int
    """Of these, further tries after the endpoint failed."""
    asked_again: int
    """Of these, second questions after an answer that could not be read."""
    tokens: Tokens
    """Of all answers, those from the cache included: what the verdicts cost whenever they were given."""
    new_tokens: Tokens
    """Of the answers that came in this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeReport:
    """Counts and rates over all comparisons. Rates are None where nothing was there to count."""

    judge: str
    comparisons: int
    identical: int
    """Ties without asking."""
    agreed: int
    """Both orders say the same."""
    inconsistent: int
    """Both orders were read and say different things: counted as ties."""
    left_out: int
    """At least one order has no verdict."""
    preferred_a: int
    preferred_b: int
    ties: int
    """Of the combined verdicts, identical responses and inconsistent ones included."""
    first_shown: Interval | None
    """Share of single verdicts with a winner that went to the response shown first; 50 % is no bias.

    The two verdicts of a comparison are not independent: while most comparisons are consistent, the
    interval is too wide; where most flip, too narrow, and `flips_to_first` is the one to read.
    """
    flips_to_first: Interval | None
    """Share of the flipped comparisons in which the response shown first won both times."""
    self_consistency: Interval | None
    """Share of comparisons on which both orders agree."""
    agreement: Interval | None
    """Share on which the judge prefers what the earlier verdict prefers, where both name a winner."""
    tied_where_decided: int
    """Comparisons whose earlier verdict names a winner and which the judge calls a tie."""
    traffic: Traffic
    price: float | None
    """Of all answers, in the currency of the settings."""
    new_price: float | None
    """Of the answers that came in this run."""

    def lines(self) -> tuple[str, ...]:
        """The report in sentences, for the terminal and the page."""
        judged = self.comparisons - self.left_out
        lines = [
            f"{self.judge} gave {judged} of {self.comparisons} verdicts: {self.preferred_a} for a, "
            f"{self.preferred_b} for b, {self.ties} ties ({self.inconsistent} because the two orders "
            f"disagree, {self.identical} identical without asking); {self.left_out} left out.",
        ]
        if self.self_consistency:
            lines.append(f"Both orders agree on {self.self_consistency.percent_of('comparisons')}.")
        if self.first_shown:
            lines.append(f"The response shown first won {self.first_shown.percent_of('single verdicts')}.")
        if self.flips_to_first:
            share = self.flips_to_first.percent_of("comparisons that flipped with the order")
            lines.append(f"It won both times in {share}.")
        if self.agreement:
            lines.append(
                f"It agrees with the earlier verdict on {self.agreement.percent_of('decided comparisons')}; "
                f"{self.tied_where_decided} more it calls a tie."
            )
        return (*lines, self._traffic_line())

    def _traffic_line(self) -> str:
        traffic, tokens = self.traffic, self.traffic.new_tokens
        cost = "" if self.new_price is None else f", a price of {self.new_price:.4f}"
        unsaid = f" (and {tokens.uncounted} answers without a count)" if tokens.uncounted else ""
        return (
            f"{traffic.questions} questions, {traffic.from_cache} of them answered from the cache; "
            f"{traffic.requests} requests, {traffic.retries} of them retries and {traffic.asked_again} asked "
            f"again for an answer that could not be read; {tokens.input} input and {tokens.output} output "
            f"tokens{unsaid}{cost}."
        )


def report(judgments: Sequence[Judgment], traffic: Traffic, settings: LLMJudgeSettings) -> JudgeReport:
    """Count everything once."""
    read = [judgment for judgment in judgments if judgment.read]
    agreed = sum(judgment.consistent for judgment in read)
    preferred = [judgment.verdict.preferred for judgment in judgments if judgment.verdict]
    agreement, tied = _agreement(judgments)
    return JudgeReport(
        judge=settings.judge,
        comparisons=len(judgments),
        identical=sum(not judgment.orders for judgment in judgments),
        agreed=agreed,
        inconsistent=len(read) - agreed,
        left_out=len(judgments) - len(preferred),
        preferred_a=preferred.count("a"),
        preferred_b=preferred.count("b"),
        ties=preferred.count("tie"),
        first_shown=_share(
            order.first_won
            for judgment in read
            for order in judgment.orders
            if order.verdict and order.verdict.preferred != "tie"
        ),
        flips_to_first=_share(judgment.orders[0].first_won for judgment in read if judgment.flipped),
        self_consistency=_share(judgment.consistent for judgment in read),
        agreement=agreement,
        tied_where_decided=tied,
        traffic=traffic,
        price=traffic.tokens.price(settings),
        new_price=traffic.new_tokens.price(settings),
    )


def _agreement(judgments: Sequence[Judgment]) -> tuple[Interval | None, int]:
    """Agreement with the earlier verdicts that name a winner, and how many of those the judge ties."""
    pairs = [
        (judgment.comparison.verdict.preferred, judgment.verdict.preferred)
        for judgment in judgments
        if judgment.verdict and judgment.comparison.verdict and judgment.comparison.decided
    ]
    decided = [(earlier, ours) for earlier, ours in pairs if ours != "tie"]
    return _share(earlier == ours for earlier, ours in decided), len(pairs) - len(decided)


def _share(outcomes: Iterable[bool]) -> Interval | None:
    counted = list(outcomes)
    return wilson(sum(counted), len(counted)) if counted else None

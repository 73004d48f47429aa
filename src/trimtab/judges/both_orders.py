"""One comparison asked in both orders, and the one verdict that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from trimtab.judges.questions import Choice
from trimtab.judges.replies import Reply
from trimtab.records import Comparison, Preferred, ShownOrder, Verdict

ORDERS: tuple[ShownOrder, ShownOrder] = ("ab", "ba")


class Outcome(NamedTuple):
    """What came of a question; `replies` that are not from the cache came in this run."""

    choice: Choice | None
    failure: str
    replies: tuple[Reply, ...]
    from_cache: bool
    refused: bool = False
    """Whether the endpoint would not take the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderVerdict:
    """What the judge said with the two responses in one order: a verdict, or why there is none."""

    shown: ShownOrder
    verdict: Verdict | None
    failure: str
    """Why there is no verdict; empty where there is one."""
    replies: tuple[Reply, ...]
    """The raw answers to this question, the one that counts last."""
    from_cache: bool

    def __post_init__(self) -> None:
        if (self.verdict is None) == (not self.failure):
            raise ValueError("an order has either a verdict or a failure")

    @property
    def first_won(self) -> bool:
        """Whether the response shown first was preferred."""
        return self.verdict is not None and self.verdict.preferred == self.shown[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """One comparison as it came, with the combined verdict or the reason why there is none."""

    comparison: Comparison
    verdict: Verdict | None
    reason: str
    orders: tuple[OrderVerdict, ...]
    """Both orders; empty for identical responses, which are a tie without asking."""

    @property
    def read(self) -> bool:
        """Whether both orders were asked and read."""
        return bool(self.orders) and self.verdict is not None

    @property
    def consistent(self) -> bool:
        """Whether both orders were read and say the same."""
        verdicts = [order.verdict for order in self.orders]
        return self.read and len({verdict.preferred for verdict in verdicts if verdict}) == 1

    @property
    def flipped(self) -> bool:
        """Whether each order names a winner, and not the same one."""
        firsts = [order.first_won for order in self.orders]
        decided = all(order.verdict and order.verdict.preferred in ("a", "b") for order in self.orders)
        return self.read and decided and firsts[0] == firsts[1]


def combined(comparison: Comparison, outcomes: Sequence[Outcome], judge: str) -> Judgment:
    """Both orders in one verdict: what they agree on, a tie where they differ, none where one failed."""
    if not outcomes:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        same = Verdict(preferred="tie", judge=judge, at=now)
        return Judgment(comparison=comparison, verdict=same, reason="", orders=())
    orders = tuple(_order(shown, one, judge) for shown, one in zip(ORDERS, outcomes, strict=True))
    verdicts = [order.verdict for order in orders if order.verdict]
    if len(verdicts) < len(orders):
        reason = "; ".join(f"shown {order.shown}: {order.failure}" for order in orders if order.failure)
        return Judgment(comparison=comparison, verdict=None, reason=reason, orders=orders)
    one, other = verdicts
    preferred: Preferred = one.preferred if one.preferred == other.preferred else "tie"
    verdict = Verdict(preferred=preferred, judge=judge, at=max(one.at, other.at))
    return Judgment(comparison=comparison, verdict=verdict, reason="", orders=orders)


def _order(shown: ShownOrder, outcome: Outcome, judge: str) -> OrderVerdict:
    verdict = None
    if outcome.choice is not None:
        first: Preferred = "a" if shown == "ab" else "b"
        second: Preferred = "b" if shown == "ab" else "a"
        preferred = {"1": first, "2": second, "TIE": "tie"}[outcome.choice]
        verdict = Verdict(preferred=preferred, judge=judge, shown=shown, at=outcome.replies[-1].at)
    return OrderVerdict(
        shown=shown,
        verdict=verdict,
        failure=outcome.failure,
        replies=outcome.replies,
        from_cache=outcome.from_cache,
    )

"""Which judgments stand: the queries that claims, saves and exports share.

The judgments of one person on one item in one round are a chain: each supersedes the one before. The last of
a chain is live, unless it withdraws the others.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Subquery, bindparam, exists, func, select

from trimtab.feedback.store.tables import items, judgments, projects

_later = judgments.alias("later")

newest: ColumnElement[bool] = ~exists().where(_later.c.supersedes == judgments.c.id)
"""Nothing supersedes it: the last of its chain."""

live: ColumnElement[bool] = (judgments.c.said != "withdrawn") & newest
"""It stands."""


def done(round: int) -> ColumnElement[bool]:
    """Whether `:person` has said something that stands about the item of the outer query, in this round."""
    mine, later = judgments.alias("mine"), judgments.alias("mine_later")
    return exists().where(
        mine.c.person == bindparam("person"),
        mine.c.item == items.c.id,
        mine.c.round == round,
        mine.c.said != "withdrawn",
        ~exists().where(later.c.supersedes == mine.c.id),
    )


def live_judgments(*conditions: ColumnElement[bool]) -> Subquery:
    """Live judgments, with `gold` of the item and `beyond`: whether it is extra now.

    Extra is what was beyond the overlap when it was saved and still is. So an extra one takes the place of
    one that is withdrawn, and counts once the overlap is raised; lowering the overlap throws nothing away.
    """
    place = func.row_number().over(
        partition_by=(judgments.c.item, judgments.c.round, judgments.c.counts),
        order_by=(judgments.c.extra, judgments.c.id),
    )
    columns: list[Any] = [
        *judgments.c,
        items.c.gold,
        (judgments.c.extra & (place > projects.c.overlap)).label("beyond"),
    ]
    return (
        select(*columns)
        .join(items, items.c.id == judgments.c.item)
        .join(projects, projects.c.id == judgments.c.project)
        .where(live, *conditions)
        .subquery()
    )

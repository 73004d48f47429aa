"""The tables as queries see them. The migrations make them, and a test compares the two.

One column remembers what could be counted: `items.judged`, the live counting judgments of round 0, changed in
the same transaction as the judgments. All else that is derived is derived when it is asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A time with its zone, UTC in both databases; SQLite has none and keeps text that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "a time without a zone"
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Number(TypeDecorator[int]):
    """The number of a row. One that no row can have asks for a row that is not there, and is no error."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return value if value is None or 0 < value < 2**31 else -1


def _reference(name: str, target: str) -> Column[int]:
    return Column(name, Number, ForeignKey(f"{target}.id"), nullable=False)


people = Table(
    "people",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", Text, nullable=False),
    Column("folded", Text, nullable=False, unique=True),  # the name without case: no two look alike
    Column("role", String(20), nullable=False),
    Column("password", Text),
    Column("active", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
)
sign_ins = Table(
    "sign_ins",
    metadata,
    Column("hash", String(64), primary_key=True),
    _reference("person", "people"),
    Column("expires_at", Moment, nullable=False),
    Column("used_at", Moment),
)
sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    _reference("person", "people"),
    Column("expires_at", Moment, nullable=False),
    Index(None, "person"),
)
projects = Table(
    "projects",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", Text, nullable=False),
    Column("folded", Text, nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("gold_share", Float, nullable=False),
    Column("repeat_share", Float, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    CheckConstraint("overlap >= 1", name="overlap"),
)
guidelines = Table(
    "guidelines",
    metadata,
    Column("project", Number, ForeignKey("projects.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("at", Moment, nullable=False),
)
items = Table(
    "items",
    metadata,
    Column("id", Number, primary_key=True),
    _reference("project", "projects"),
    Column("digest", String(64), nullable=False),
    Column("body", Text, nullable=False),  # JSON
    Column("gold", Boolean, nullable=False),
    Column("judged", Integer, nullable=False),
    UniqueConstraint("project", "digest"),
    CheckConstraint("judged >= 0", name="judged"),
)
Index("ix_items_open", items.c.project, items.c.gold, items.c.judged.desc(), items.c.id)
leases = Table(
    "leases",
    metadata,
    Column("id", Number, primary_key=True),
    _reference("project", "projects"),
    _reference("item", "items"),
    _reference("person", "people"),
    Column("round", Integer, nullable=False),
    Column("expires_at", Moment, nullable=False),
    UniqueConstraint("item", "person", "round"),
    Index(None, "project", "expires_at"),
)
judgments = Table(
    "judgments",
    metadata,
    Column("id", Number, primary_key=True),
    _reference("project", "projects"),
    _reference("item", "items"),
    _reference("person", "people"),
    Column("round", Integer, nullable=False),
    Column("said", String(20), nullable=False),  # the outcome's kind
    Column("counts", Boolean, nullable=False),  # whether that is an answer
    Column("outcome", Text, nullable=False),  # JSON, as are shown and policies
    Column("shown", Text, nullable=False),
    Column("blind", Boolean, nullable=False),
    Column("guidelines", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("policies", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("extra", Boolean, nullable=False),  # beyond the overlap when it was saved
    Column("supersedes", Number, ForeignKey("judgments.id"), unique=True),
    Column("at", Moment, nullable=False),
    UniqueConstraint("person", "key"),
    Index(None, "item"),
    Index(None, "person", "project", "id"),
)
# One chain for each person, item and round: it has one beginning, and each link has one successor.
Index(
    "uq_judgments_beginning",
    judgments.c.person,
    judgments.c.item,
    judgments.c.round,
    unique=True,
    sqlite_where=text("supersedes IS NULL"),
    postgresql_where=text("supersedes IS NULL"),
)
Index(None, judgments.c.person, judgments.c.item, judgments.c.round)

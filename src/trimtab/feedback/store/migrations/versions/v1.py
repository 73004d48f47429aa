"""The first schema. A migration that has been released is never changed: write the next one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trimtab.feedback.store.tables import Moment

revision = "1"
down_revision = None

_REFUSED = "judgments are append-only: undo and edit supersede"


def upgrade() -> None:
    _accounts()
    _projects()
    _work()
    if op.get_bind().dialect.name == "sqlite":
        _append_only_sqlite()
    else:
        _append_only_postgresql()


def _accounts() -> None:
    op.create_table(
        "people",
        sa.Column("id", sa.Integer),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("password", sa.Text),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_people"),
        sa.UniqueConstraint("folded", name="uq_people_folded"),
    )
    op.create_table(
        "sign_ins",
        sa.Column("hash", sa.String(64)),
        _reference("sign_ins", "person", "people"),
        sa.Column("expires_at", Moment, nullable=False),
        sa.Column("used_at", Moment),
        sa.PrimaryKeyConstraint("hash", name="pk_sign_ins"),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64)),
        _reference("sessions", "person", "people"),
        sa.Column("expires_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_sessions"),
    )
    op.create_index("ix_sessions_person", "sessions", ["person"])


def _projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("gold_share", sa.Float, nullable=False),
        sa.Column("repeat_share", sa.Float, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("folded", name="uq_projects_folded"),
        sa.CheckConstraint("overlap >= 1", name="ck_projects_overlap"),
    )
    op.create_table(
        "guidelines",
        _reference("guidelines", "project", "projects"),
        sa.Column("version", sa.Integer, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("project", "version", name="pk_guidelines"),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.Integer),
        _reference("items", "project", "projects"),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("gold", sa.Boolean, nullable=False),
        sa.Column("judged", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_items"),
        sa.UniqueConstraint("project", "digest", name="uq_items_project_digest"),
        sa.CheckConstraint("judged >= 0", name="ck_items_judged"),
    )
    op.create_index("ix_items_open", "items", ["project", "gold", sa.text("judged DESC"), "id"])


def _work() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.Integer),
        _reference("leases", "project", "projects"),
        _reference("leases", "item", "items"),
        _reference("leases", "person", "people"),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("expires_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_leases"),
        sa.UniqueConstraint("item", "person", "round", name="uq_leases_item_person_round"),
    )
    op.create_index("ix_leases_project_expires_at", "leases", ["project", "expires_at"])
    op.create_table(
        "judgments",
        sa.Column("id", sa.Integer),
        _reference("judgments", "project", "projects"),
        _reference("judgments", "item", "items"),
        _reference("judgments", "person", "people"),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("said", sa.String(20), nullable=False),
        sa.Column("counts", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("blind", sa.Boolean, nullable=False),
        sa.Column("guidelines", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("policies", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("extra", sa.Boolean, nullable=False),
        sa.Column("supersedes", sa.Integer, sa.ForeignKey("judgments.id", name="fk_judgments_supersedes")),
        sa.Column("at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_judgments"),
        sa.UniqueConstraint("supersedes", name="uq_judgments_supersedes"),
        sa.UniqueConstraint("person", "key", name="uq_judgments_person_key"),
    )
    op.create_index("ix_judgments_item", "judgments", ["item"])
    op.create_index("ix_judgments_person_project_id", "judgments", ["person", "project", "id"])
    op.create_index("ix_judgments_person_item_round", "judgments", ["person", "item", "round"])
    beginning = sa.text("supersedes IS NULL")
    op.create_index(
        "uq_judgments_beginning",
        "judgments",
        ["person", "item", "round"],
        unique=True,
        sqlite_where=beginning,
        postgresql_where=beginning,
    )


def _reference(table: str, name: str, target: str) -> sa.Column[int]:
    key = sa.ForeignKey(f"{target}.id", name=f"fk_{table}_{name}")
    return sa.Column(name, sa.Integer, key, nullable=False)


def _append_only_sqlite() -> None:
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER judgments_no_{act.lower()} BEFORE {act} ON judgments "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
        )
    # INSERT OR REPLACE deletes without a delete trigger: refuse it before it comes to that.
    op.execute(
        "CREATE TRIGGER judgments_no_replace BEFORE INSERT ON judgments WHEN EXISTS ("
        "SELECT 1 FROM judgments WHERE id = NEW.id "
        "UNION ALL SELECT 1 FROM judgments WHERE person = NEW.person AND key = NEW.key "
        "UNION ALL SELECT 1 FROM judgments WHERE supersedes = NEW.supersedes "
        "UNION ALL SELECT 1 FROM judgments WHERE NEW.supersedes IS NULL AND supersedes IS NULL "
        "AND person = NEW.person AND item = NEW.item AND round = NEW.round) "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
    )


def _append_only_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER judgments_no_change BEFORE UPDATE OR DELETE ON judgments "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER judgments_no_truncate BEFORE TRUNCATE ON judgments "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )

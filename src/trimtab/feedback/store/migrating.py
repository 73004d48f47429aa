"""The schema of a store: made, brought up to date, or refused."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from trimtab.errors import StoreError
from trimtab.feedback.store.engine import Database

VERSION_TABLE = "trimtab_feedback_version"
_LOCK = 7_314_201_806  # any number; the same for all who migrate


def migrate(database: Database) -> None:
    """Make the tables, or bring them to this version.

    Raises:
        StoreError: the database belongs to something else, or to a newer trimtab.
    """
    where = database.address.name
    with database.writing() as connection:
        if connection.dialect.name == "postgresql":
            _prepare_postgresql(connection, where)
        config = _config(connection)
        script = ScriptDirectory.from_config(config)
        found = version(connection)
        if found == script.get_current_head():
            return
        if found is None:
            refuse_foreign(connection, where)
        elif found not in {revision.revision for revision in script.walk_revisions()}:
            raise StoreError(
                "the store was made by a newer trimtab",
                where=where,
                found=f"version {found}, this trimtab knows {script.get_current_head()}",
                fix="install the newer trimtab",
            )
        command.upgrade(config, "head")


def version(connection: Connection) -> str | None:
    """The schema version of a database; None where it is no store."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _prepare_postgresql(connection: Connection, where: str) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise StoreError(
            "the database cannot hold every text",
            where=where,
            found=f"encoding {encoding}",
            fix="create it with ENCODING 'UTF8'",
        )


def refuse_foreign(connection: Connection, where: str) -> None:
    """Raise StoreError if a database that is no store has tables."""
    tables = inspect(connection).get_table_names()
    if tables:
        raise StoreError(
            "the database holds something else",
            where=where,
            found=f"a table `{sorted(tables)[0]}`",
            fix="give the store a file or database of its own",
        )

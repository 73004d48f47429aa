"""Alembic's entry: runs the migrations in the transaction that `migrating.migrate` has begun."""

from alembic import context

from trimtab.feedback.store.migrating import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()

"""Alembic's entry point: runs on the connection that usage_pipeline.storage.migrations hands over."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema="public",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()

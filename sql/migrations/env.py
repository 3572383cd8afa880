"""Alembic's entry point: runs on the connection that usage_pipeline.storage.migrations hands over."""

from alembic import context

from usage_pipeline.storage.schema_version import VERSION_SCHEMA, VERSION_TABLE, take_over_version_table

connection = context.config.attributes["connection"]
# In a transaction of its own: the migrations have one each.
with connection.begin():
    take_over_version_table(connection)
context.configure(
    connection=connection,
    version_table=VERSION_TABLE,
    version_table_schema=VERSION_SCHEMA,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()

"""A database at an earlier version of the schema, as somebody has it who has not run `migrate` since an upgrade."""

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, make_url

from usage_pipeline.storage.sql import sql_folder


def migrate_up_to(url: str, version: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(sql_folder() / "migrations"))
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        connection.commit()
    engine.dispose()

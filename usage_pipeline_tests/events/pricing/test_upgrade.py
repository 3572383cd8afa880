"""A database of the release before, which knew prices of input and output alone."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from usage_pipeline.events.pricing.lookups import add_lookups
from usage_pipeline.events.pricing.prices import package_version
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.sql import sql_folder

BEFORE = "0022"


@pytest.fixture
def old(servers: LocalServers) -> Iterator[str]:
    """The URL of a database at the revision before own prices."""
    name = f"old_{uuid.uuid4().hex}"
    create_database(servers.postgres, name)
    url = servers.postgres.url(name)
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(sql_folder() / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, BEFORE)
        connection.commit()
    engine.dispose()
    yield url
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_models_of_the_installed_package_are_looked_up_again_and_other_versions_stay(old: str) -> None:
    versions = [(package_version(), "genai-prices"), ("genai-prices 0.0.1", "genai-prices"), ("negotiated", "csv")]
    with psycopg.connect(old, autocommit=True) as connection:
        for version, source in versions:
            connection.execute(
                "insert into analytics.price_versions (price_version, source) values (%s, %s)", (version, source)
            )
            connection.execute(
                "insert into analytics.model_prices (price_version, provider, model, input_usd, output_usd) "
                "values (%s, 'openai', 'gpt-4o', 2.5, 10)",
                (version,),
            )
            connection.execute(
                "insert into analytics.model_lookups (price_version, provider, model) values (%s, 'openai', 'gpt-4o')",
                (version,),
            )
    migrate(old)
    with psycopg.connect(old, autocommit=True) as connection:
        add_lookups(connection, package_version(), [("openai", "gpt-4o", "")])
        cached = dict(
            connection.execute("select price_version, cache_read_usd::text from analytics.model_prices").fetchall()
        )
    assert cached == {package_version(): "-1.25", "genai-prices 0.0.1": "0", "negotiated": "0"}

"""A database of the release before, which knew prices of input and output alone."""

from collections.abc import Iterator

import psycopg
import pytest

from usage_pipeline.events.pricing.lookups import add_lookups
from usage_pipeline.events.pricing.prices import package_version
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.storage.old_schema import before, old_database


@pytest.fixture
def old(servers: LocalServers) -> Iterator[str]:
    """The URL of a database at the revision before own prices."""
    with old_database(servers.postgres, before("0023")) as url:
        yield url


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

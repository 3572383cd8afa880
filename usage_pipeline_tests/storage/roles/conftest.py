"""A server of its own that the administrator's script has prepared, migrated by the owner of its database."""

from collections.abc import Iterator

import psycopg
import pytest

from usage_pipeline.local.servers.postgres import start_postgres, stop_postgres
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.places import servers_folder
from usage_pipeline_tests.storage.roles.prepared_server import OWNER, PreparedServer, prepare_server


@pytest.fixture(scope="module")
def prepared() -> Iterator[PreparedServer]:
    with servers_folder() as folder:
        try:
            server = prepare_server(start_postgres(folder / "postgres", durable=False))
            migrate(server.url(OWNER))
            yield server
        finally:
            stop_postgres(folder / "postgres")


@pytest.fixture
def administrator(prepared: PreparedServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(prepared.postgres.url("usage"), autocommit=True) as connection:
        yield connection

"""Writes sql/catalog.json, the tables and columns that the asset definitions tell of, as the migrations make them.

uv run python docs/write_catalog.py
"""

import tempfile
from pathlib import Path

import psycopg

from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.storage.catalog import write_catalog
from usage_pipeline.storage.migrations import migrate

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, LocalServers(Path(folder), durable=False) as servers:
        migrate(servers.database_url)
        with psycopg.connect(servers.database_url) as connection:
            write_catalog(connection)

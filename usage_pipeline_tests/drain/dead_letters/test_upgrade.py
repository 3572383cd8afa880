"""The migration to lines and discards, on dead letters that an earlier version left."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.postgres import create_database
from usage_pipeline.settings import load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.sql import sql_folder
from usage_pipeline_tests.rigs.events import event


@pytest.fixture
def empty_database_url(servers: LocalServers) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex}"
    create_database(servers.postgres, name)
    yield servers.postgres.url(name)
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def migrate_to_before(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(sql_folder() / "migrations"))
    before = ScriptDirectory.from_config(config).get_revision("0026").down_revision
    assert isinstance(before, str)
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
        connection.commit()
    engine.dispose()


def test_places_of_json_lines_become_lines_and_a_file_that_was_half_read_adds_none(
    empty_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    migrate_to_before(empty_database_url)
    bad = [json.dumps(event(team=...)) for _ in range(3)]
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for name, family, position in (
            (b"u.jsonl", "usage_event", 0),
            (b"archives/u.jsonl.gz", "message_archive", 7),
            (b"u.json", "usage_event", 0),
            (b"\xffu.jsonl", "merchant", None),
        ):
            connection.execute(
                "insert into ops.dead_letters (family, source_key, position, reason, raw, raw_format, claimed_at)"
                " values (%s, %s, %s, 'r', %s, 'string', now())",
                (family, name, position, bad[0].encode()),
            )
        migrate(empty_database_url)
        places = connection.execute("select position from ops.dead_letters order by dead_letter_id").fetchall()
        assert places == [(1,), (8,), (0,), (None,)]
        (tmp_path / "u.jsonl").write_text("".join(f"{one}\n" for one in bad))
        settings = load_settings(database_url=empty_database_url, redis_url=redis_url)
        assert ingest_file(connection, Landing(str(tmp_path)), "u.jsonl", settings=settings).rejected == 3
        query = "select position from ops.dead_letters where source_key = 'u.jsonl' order by 1"
        assert connection.execute(query).fetchall() == [(1,), (2,), (3,)]

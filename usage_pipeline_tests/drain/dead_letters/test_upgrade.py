"""The migration to lines and discards, on dead letters that an earlier version left."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.storage.old_schema import before, old_database


@pytest.fixture
def old(servers: LocalServers) -> Iterator[str]:
    """The URL of a database of that version."""
    with old_database(servers.postgres, before("0026")) as url:
        yield url


def test_places_of_json_lines_become_lines_and_a_file_that_was_half_read_adds_none(
    old: str, redis_url: str, tmp_path: Path
) -> None:
    bad = [json.dumps(event(team=...)) for _ in range(3)]
    with psycopg.connect(old, autocommit=True) as connection:
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
        migrate(old)
        places = connection.execute("select position from ops.dead_letters order by dead_letter_id").fetchall()
        assert places == [(1,), (8,), (0,), (None,)]
        (tmp_path / "u.jsonl").write_text("".join(f"{one}\n" for one in bad))
        settings = load_settings(database_url=old, redis_url=redis_url)
        assert ingest_file(connection, Landing(str(tmp_path)), "u.jsonl", settings=settings).rejected == 3
        query = "select position from ops.dead_letters where source_key = 'u.jsonl' order by 1"
        assert connection.execute(query).fetchall() == [(1,), (2,), (3,)]

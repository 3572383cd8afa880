"""An erased user is nowhere any more, Parquet files included, and every count is as it was."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
import redis

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.erasure import erase as module
from usage_pipeline.events.erasure.erase import Erasure, erase
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, ingest
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.archives.store import ArchiveStore, ArchiveUnavailable
from usage_pipeline.storage.chunks.locks import ChunksBusy
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event

WHO = 'nora"ü\\42'
SECRET = "my secret question"
OLD = (NOW - timedelta(days=10)).replace(hour=12)


@pytest.fixture
def archiving(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"archive_url": str(tmp_path / "archive")})


@pytest.fixture
def store(archiving: Settings) -> ArchiveStore:
    return ArchiveStore(str(archiving.archive_url))


def store_everywhere(postgres: psycopg.Connection, archiving: Settings, client: redis.Redis) -> None:
    """The user and two others: in files, in partitions, in raw tables, totals, conflicts and dead letters."""

    def send(at: Any, **changes: Any) -> list[dict[str, Any]]:
        events = [
            event(
                # Of two of the user, one has an id that tells who it is.
                event_id=f"{who}/{number}/{uuid.uuid4()}" if number else str(uuid.uuid4()),
                event_time=at.isoformat(),
                user_id=who,
                prompt=SECRET,
                extra={"mail": who},
                tags={"mail": who, "note": SECRET},
                usage={"cache_read_tokens": 7, "web_searches": 1},
                **changes,
            )
            for number, who in enumerate((WHO, WHO, "omar", "1"))
        ]
        ingest(postgres, EVENTS, as_items(*events), source="test", settings=archiving, now=NOW)
        own = [archive(one["event_id"], user_id=one["user_id"], prompt_full=SECRET) for one in events]
        ingest(postgres, ARCHIVES, as_items(*own), source="test", settings=archiving, now=NOW)
        return events

    old = send(OLD)
    postgres.execute("delete from ops.touched_windows")
    add_request_events(client, OLD.isoformat())
    drain_once(archiving)
    postgres.execute("update ops.touched_days set rolled_version = version")
    run_lifecycle(archiving)
    assert len(archives(postgres, only_in_files=True)) >= 4
    events = send(NOW - timedelta(hours=1))
    conflicts = [one | {"latency_ms": 1} for one in (*old[1:3], events[0], events[2])]
    ingest(postgres, EVENTS, as_items(*conflicts), source="test", settings=archiving, now=NOW)
    add_request_events(client, NOW.isoformat())
    client.rpush("event_queue", f'{{"user_id": {json.dumps(WHO)}, "event_id": ')
    client.hset("provider:bad:s3:metrics", mapping={"user_id": WHO, "upload_count": "many", "note": WHO})
    client.rpush("apikey:list:metrics", WHO)
    drain_once(archiving)
    columns = "usage_date, team, service, provider, model, user_id, requests, errors, input_tokens, output_tokens, total_tokens"
    postgres.execute(
        f"insert into analytics.usage_user_daily ({columns}, unpriced_requests)"
        " select now(), 'search', 'chat', 'openai', 'gpt-4o', unnest(array[%s, 'omar']), 1, 0, 1, 1, 2, 0",
        (WHO,),
    )


def add_request_events(client: redis.Redis, at: str) -> None:
    for who in (WHO, "omar"):
        members = {
            "event_id": str(uuid.uuid4()),
            "api_key_id": "k",
            "user_id": who,
            "provider": "s3",
            "event_type": "upload",
            "file_size": 1,
            "status": "success",
            "at": at,
        }
        client.rpush("event_queue", json.dumps(members | {"note": who}))
        client.rpush("event_queue", json.dumps(members | {"event_id": str(uuid.uuid4()), "file_size": "many"}))
        from datetime import datetime

        stamp = int(datetime.fromisoformat(at).timestamp() * 1000)
        fields = {"user_id": who, "upload_count": 3, "last_used_at": stamp, "note": who}
        client.hset(f"provider:{who[:4]}:s3:metrics", mapping=fields)


def traces(postgres: psycopg.Connection, folder: str | None, who: str) -> list[str]:
    """Where the id, or the secret of that user, is found: tables as text, bytes, and all values of all files."""
    found = []
    written = {who, json.dumps(who)[1:-1], json.dumps(who, ensure_ascii=False)[1:-1]}
    written |= {json.dumps(text)[1:-1] for text in written} | {text.replace("\\", "\\\\") for text in written}
    tables = postgres.execute(
        "select format('%I.%I', nspname, relname)::text from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
        "where nspname in ('raw', 'usage', 'analytics', 'ops', 'stats') and relkind in ('r', 'p') and not relispartition"
    ).fetchall()
    for (table,) in tables:
        columns = postgres.execute(
            "select attname, atttypid = 'bytea'::regtype from pg_attribute "
            "where attrelid = %s::text::regclass and attnum > 0 and not attisdropped",
            (table,),
        ).fetchall()
        for name, is_bytes in columns:
            cells = postgres.execute(f'select "{name}" from {table} where "{name}" is not null').fetchall()
            for (cell,) in cells:
                text = bytes(cell).decode("latin-1") if is_bytes else str(cell)
                needles = {one.encode().decode("latin-1") for one in written} if is_bytes else written
                if any(needle in text for needle in needles):
                    found.append(f"{table}.{name}")
    for path in Path(folder or os.devnull).rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if any(who in str(value) for value in row.values()):
                found.append(path.name)
            if row.get("user_id", "").startswith("erased-") and SECRET in str(row):
                found.append(f"secret in {path.name}")
    return sorted(set(found))


def counts(postgres: psycopg.Connection) -> dict[str, Any]:
    """Rows and distinct users, by table."""
    tables = [
        "analytics.usage_events",
        "raw.request_events",
        "raw.provider_deltas",
        "usage.provider_usage",
        "analytics.usage_user_daily",
    ]
    found: dict[str, Any] = {
        table: postgres.execute(f"select count(*), count(distinct user_id) from {table}").fetchall() for table in tables
    }
    for table in (
        "ops.dead_letters",
        "ops.event_conflicts",
        "analytics.usage_event_ids",
        "analytics.message_archive_ids",
    ):
        found[table] = postgres.execute(f"select count(*) from {table}").fetchall()
    found["files"] = [
        (one.table_name, one.chunk_start, one.rows)
        for one in archives(postgres, only_in_files=True)
        if one.table_name != "analytics.message_archives"
    ]
    return found


def test_the_user_is_nowhere_any_more_and_the_counts_are_as_before(
    postgres: psycopg.Connection, archiving: Settings, store: ArchiveStore, redis_client: redis.Redis
) -> None:
    store_everywhere(postgres, archiving, redis_client)
    folder = archiving.archive_url
    before = counts(postgres)
    assert len(traces(postgres, folder, WHO)) > 10
    omar = traces(postgres, folder, "omar")
    done = erase(archiving, WHO)
    assert done.problems == []
    assert traces(postgres, folder, WHO) == []
    assert counts(postgres) == before
    assert {name.rpartition("/")[2] for name in traces(postgres, folder, "omar") if "." in name} >= {
        name for name in omar if not name.endswith(".parquet")
    }
    assert done.counts == {
        "analytics.usage_events": 2,
        "file:analytics.usage_events": 2,
        "analytics.message_archives": 2,
        "file:analytics.message_archives": 2,
        "raw.request_events": 1,
        "file:raw.request_events": 1,
        "raw.provider_deltas": 2,
        "file:raw.provider_deltas": 1,
        "usage.provider_usage": 2,
        "analytics.usage_user_daily": 1,
        "analytics.usage_user_team_daily": 1,
        "ops.event_conflicts": 2,
        "ops.dead_letters": 4,
    }
    row = postgres.execute(
        "select pseudonym, counts, finished_at is not null, salt, proof from ops.erasures"
    ).fetchall()
    assert row == [(done.pseudonym, done.counts, True, None, None)]
    # Others keep what is theirs, and the rows are whole in files that the manifest describes.
    kept = (
        "select distinct user_id from analytics.usage_events"
        " where prompt = %s and extra is not null and tags is not null and external_id is not null order by 1"
    )
    assert postgres.execute(kept, (SECRET,)).fetchall() == [("1",), ("omar",)]
    for one in archives(postgres, only_in_files=True):
        restore(postgres, store, one, interval_hours=24)
    assert postgres.execute(kept, (SECRET,)).fetchall() == [("1",), ("omar",)]
    # What was counted stays, of the user as of the others.
    units = "select distinct cache_read_tokens, other_units from analytics.usage_events"
    assert postgres.execute(units).fetchall() == [(7, {"web_searches": 1})]
    payloads = postgres.execute(
        "select convert_from(other_payload, 'UTF8')::jsonb from ops.event_conflicts where other_hash is null"
    ).fetchall()
    assert [payload["usage"] for (payload,) in payloads] == [{"cache_read_tokens": 7, "web_searches": 1}] * 2
    assert postgres.execute(
        "select user_id = %s, count(*) from analytics.message_archives group by 1", (done.pseudonym,)
    ).fetchall() == [(False, 4)]
    live = {one.address for one in archives(postgres) if not one.deleted_at}
    assert {str(path.relative_to(str(folder))) for path in Path(str(folder)).rglob("*.parquet")} == live


def test_a_second_erasure_finds_nothing(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis
) -> None:
    store_everywhere(postgres, archiving, redis_client)
    erase(archiving, WHO)
    before = sorted(Path(str(archiving.archive_url)).rglob("*.parquet"))
    assert erase(archiving, WHO).counts == {}
    assert sorted(Path(str(archiving.archive_url)).rglob("*.parquet")) == before
    assert postgres.execute("select count(*) from ops.erasures where finished_at is not null").fetchall() == [(2,)]


def test_an_id_that_is_a_part_of_others_takes_nothing_along(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis
) -> None:
    store_everywhere(postgres, archiving, redis_client)
    found = traces(postgres, archiving.archive_url, WHO)
    letters = "select dead_letter_id, raw from ops.dead_letters order by 1"
    before = postgres.execute(letters).fetchall()
    done = erase(archiving, "1")
    assert done.counts["analytics.usage_events"] == 1
    assert "ops.dead_letters" not in done.counts
    assert postgres.execute(letters).fetchall() == before
    assert traces(postgres, None, WHO) == [name for name in found if not name.endswith(".parquet")]


class Crash(Exception):
    """The process ended here."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """The connection of the next erasure breaks before its statement of that number."""
    limit = [0]

    class Fragile(psycopg.Connection[Any]):
        calls = 0

        def execute(self, *arguments: Any, **options: Any) -> Any:
            Fragile.calls += 1
            if Fragile.calls > limit[0]:
                self.close()
                raise Crash
            return super().execute(*arguments, **options)

    def fragile(settings: Settings) -> psycopg.Connection:
        with connect(settings) as whole:
            parameters = whole.info.dsn
        Fragile.calls = 0
        return Fragile.connect(parameters, autocommit=True, options="-c timezone=UTC")

    monkeypatch.setattr(module, "connect", fragile)

    def at(number: int) -> None:
        limit[0] = number

    yield at
    monkeypatch.undo()


def test_an_erasure_that_is_cut_short_anywhere_goes_on_with_the_same_pseudonym(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis, crash_at: Callable[[int], None]
) -> None:
    store_everywhere(postgres, archiving, redis_client)
    before = counts(postgres)
    done: Erasure | None = None
    for number in range(1, 1_000):
        crash_at(number)
        try:
            done = erase(archiving, WHO)
            break
        except Crash:
            for one in archives(postgres, only_in_files=True):
                assert (Path(str(archiving.archive_url)) / one.address).stat().st_size == one.bytes
    assert done is not None
    assert number > 60
    assert traces(postgres, archiving.archive_url, WHO) == []
    assert counts(postgres) == before
    assert postgres.execute("select pseudonym, finished_at is not null from ops.erasures").fetchall() == [
        (done.pseudonym, True)
    ]
    assert done.counts["analytics.usage_events"] == done.counts["file:analytics.usage_events"] == 2
    live = {one.address for one in archives(postgres) if not one.deleted_at}
    folder = Path(str(archiving.archive_url))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")} == live


def test_a_damaged_file_keeps_the_erasure_open(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis
) -> None:
    store_everywhere(postgres, archiving, redis_client)
    [one] = archives(postgres, table="analytics.usage_events", only_in_files=True)
    path = Path(str(archiving.archive_url)) / one.address
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    first = erase(archiving, WHO)
    assert len(first.problems) == 1
    assert one.address in first.problems[0]
    assert postgres.execute("select finished_at from ops.erasures").fetchall() == [(None,)]
    path.write_bytes(whole)
    second = erase(archiving, WHO)
    assert (second.problems, second.pseudonym) == ([], first.pseudonym)
    assert traces(postgres, archiving.archive_url, WHO) == []


def test_files_without_their_address_are_refused_before_anything_changes(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis
) -> None:
    store_everywhere(postgres, archiving, redis_client)
    with pytest.raises(ArchiveUnavailable, match=r"ARCHIVE_URL: expected the place of \d+ archive files, came none"):
        erase(archiving.model_copy(update={"archive_url": None}), WHO)
    assert postgres.execute("select count(*) from ops.erasures").fetchall() == [(0,)]


def test_a_copy_that_was_read_back_is_erased_too(
    postgres: psycopg.Connection, archiving: Settings, store: ArchiveStore, redis_client: redis.Redis
) -> None:
    store_everywhere(postgres, archiving, redis_client)
    for one in archives(postgres, only_in_files=True):
        restore(postgres, store, one, interval_hours=24)
    erase(archiving, WHO)
    assert traces(postgres, archiving.archive_url, WHO) == []
    user_files = [one for one in archives(postgres) if one.table_name.startswith("analytics")]
    assert all(one.deleted_at for one in user_files)


def test_letters_of_a_landed_file_that_become_equal_are_one(postgres: psycopg.Connection, settings: Settings) -> None:
    for prompt in ("one", "two"):
        raw = json.dumps({"user_id": WHO, "prompt": prompt}).encode()
        postgres.execute(
            "insert into ops.dead_letters (family, source_key, reason, raw, raw_format, claimed_at) "
            "values ('usage_event', 'file', 'team: expected it, came none', %s, 'string', now())",
            (raw,),
        )
    done = erase(settings, WHO)
    assert done.counts == {"ops.dead_letters": 2}
    [(raw, reason)] = postgres.execute("select raw, reason from ops.dead_letters").fetchall()
    assert (json.loads(raw), reason) == ({"user_id": done.pseudonym}, "team: expected it, came a value that was erased")
    assert traces(postgres, None, WHO) == []


def test_an_erasure_waits_for_a_roll_up_that_reads(
    postgres: psycopg.Connection, archiving: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usage_pipeline.storage.chunks.locks import reading

    monkeypatch.setattr(module, "CHANGE_WAIT_SECONDS", 0.2)
    with postgres.transaction():
        reading(postgres, "analytics.usage_events")
        with pytest.raises(ChunksBusy, match="a roll-up reads it"):
            erase(archiving, WHO)
    assert erase(archiving, WHO).problems == []

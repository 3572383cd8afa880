"""The lifecycle beside writers, readers and itself, and cut short anywhere: nothing is lost, nothing is there twice."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.daily import DAILY_TABLES, SourceGoneError, replace_day, stale_days
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.archives.parquet import ParquetReader
from usage_pipeline.storage.archives.store import ArchiveStore
from usage_pipeline.storage.chunks import locks as chunk_locks
from usage_pipeline.storage.chunks.locks import ChunksBusy, changing, reading
from usage_pipeline.storage.chunks.partitions import Chunk, chunks
from usage_pipeline.storage.lifecycle import native as native_lifecycle
from usage_pipeline.storage.lifecycle import run as module
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.rigs.events import as_items, event
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.storage.lifecycle_rig import (
    ARCHIVE_TABLE,
    EVENT_TABLE,
    MIDNIGHT,
    NOW,
    age_restores,
    count_of,
    day,
    roll_up,
    rows_of,
    store_archives,
    store_events,
    waiting_on,
)

Start = Callable[..., Future[Any]]


@pytest.fixture
def archiving(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"archive_url": str(tmp_path / "archive")})


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a function beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lifecycle waits for locks for as long as the test holds them."""
    monkeypatch.setattr(native_lifecycle, "LOCK_SECONDS", 60.0)


@pytest.fixture
def other(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def wait_for_locks(postgres: psycopg.Connection, *relations: str, sessions: int = 1) -> None:
    """Until so many sessions wait for a lock on one of these tables."""
    waiting = "select count(*) from pg_locks where not granted and relation = any(%s::text[]::regclass[])"
    wait_until(
        lambda: postgres.execute(waiting, (list(relations),)).fetchall() == [(sessions,)],
        f"{sessions} wait for a lock on {relations}",
        30,
    )


def wait_for_the_drop(postgres: psycopg.Connection, parent: str) -> None:
    """Until a session has locked that table against everyone."""
    locked = "select from pg_locks where granted and relation = %s::text::regclass and mode = 'AccessExclusiveLock'"
    wait_until(lambda: postgres.execute(locked, (parent,)).fetchone() is not None, f"a session has locked {parent}", 30)


@contextmanager
def held(connection: psycopg.Connection, relation: str, mode: str) -> Iterator[None]:
    with connection.transaction():
        connection.execute(f"lock table only {relation} in {mode} mode")
        yield


def old_partition(postgres: psycopg.Connection, settings: Settings) -> Chunk:
    """One of two events, which the next run archives."""
    store_events(postgres, settings, day(10), {}, {})
    roll_up(postgres)
    [chunk] = chunks(postgres, EVENT_TABLE)
    return chunk


@contextmanager
def held_up(postgres: psycopg.Connection, other: psycopg.Connection, start: Start, settings: Settings) -> Iterator[Any]:
    """A run in its decisive transaction: the partition is locked, the manifest's row not written before the block ends."""
    with held(other, "ops.archives", "share row exclusive"):
        run = start(run_lifecycle, settings)
        wait_for_locks(postgres, "ops.archives")
        yield run


def everywhere(connection: psycopg.Connection, settings: Settings, table: str) -> list[Any]:
    """Ids of all rows of a table: in partitions, and in files of which the manifest says that only they hold them."""
    ids = [event_id for (event_id,) in connection.execute(f"select event_id::text from {table}")]
    for archive in archives(connection, table=table, only_in_files=True):
        with ParquetReader(Path(str(settings.archive_url)) / archive.address, archive.address) as reader:
            for group in reader.groups():
                ids += group[reader.names.index("event_id")]
    return sorted(ids)


def send(settings: Settings, at: datetime) -> Any:
    with connect(settings) as connection:
        return ingest(connection, EVENTS, as_items(event(event_time=at.isoformat())), source="test", settings=settings)


def test_an_insert_that_waits_while_its_partition_is_archived_is_not_lost(
    postgres: psycopg.Connection, other: psycopg.Connection, archiving: Settings, start: Start, patient: None
) -> None:
    chunk = old_partition(postgres, archiving)
    with held_up(postgres, other, start, archiving) as run:
        late = start(send, archiving, day(10))
        wait_for_locks(postgres, chunk.name)
    assert late.result(60).inserted == 1
    assert [packed.rows for packed in run.result(60).archived] == [2]
    assert len(everywhere(postgres, archiving, EVENT_TABLE)) == 3
    report = run_lifecycle(archiving)
    assert [moved.rows for moved in report.restored] == [2]
    assert count_of(postgres, EVENT_TABLE) == 3


def test_an_insert_that_waits_while_its_partition_is_dropped_makes_a_new_one(
    postgres: psycopg.Connection, other: psycopg.Connection, archiving: Settings, start: Start, patient: None
) -> None:
    chunk = old_partition(postgres, archiving)
    with held_up(postgres, other, start, archiving) as run:
        # A reader of the partition, who keeps the drop waiting with the parent locked.
        reader = start(_read_until, archiving, chunk.name, release := threading.Event())
        wait_for_locks(postgres, chunk.name)
    wait_for_the_drop(postgres, EVENT_TABLE)
    late = start(send, archiving, day(10))
    wait_for_locks(postgres, EVENT_TABLE, chunk.name, sessions=2)
    release.set()
    reader.result(60)
    assert late.result(60).inserted == 1
    assert [packed.rows for packed in run.result(60).archived] == [2]
    assert len(everywhere(postgres, archiving, EVENT_TABLE)) == 3
    assert count_of(postgres, EVENT_TABLE) == 1


def _read_until(settings: Settings, relation: str, release: threading.Event) -> None:
    with connect(settings) as connection, connection.transaction():
        connection.execute(f"lock table {relation} in access share mode")
        assert release.wait(60)


def test_an_insert_between_the_snapshot_and_the_lock_keeps_the_partition(
    postgres: psycopg.Connection, archiving: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_events(postgres, archiving, day(10), {}, {})
    roll_up(postgres)

    class Slow(ArchiveStore):
        def put(self, local: Path, address: str) -> None:
            send(archiving, day(10))
            postgres.execute("delete from ops.touched_windows")
            super().put(local, address)

    monkeypatch.setattr(module, "archive_store", lambda _: Slow(str(archiving.archive_url)))
    report = run_lifecycle(archiving)
    assert report.archived == []
    assert waiting_on(report, EVENT_TABLE) == ["it changed while it was archived"]
    assert count_of(postgres, EVENT_TABLE) == 3
    assert archives(postgres) == []
    assert list(Path(str(archiving.archive_url)).rglob("*.parquet")) == []


@pytest.mark.parametrize("change", ["update", "delete"])
def test_a_change_between_the_snapshot_and_the_lock_keeps_the_partition(
    change: str, postgres: psycopg.Connection, archiving: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_events(postgres, archiving, day(10), {}, {})
    roll_up(postgres)

    class Slow(ArchiveStore):
        def put(self, local: Path, address: str) -> None:
            if change == "update":
                postgres.execute(f"update {EVENT_TABLE} set prompt = 'another'")
            else:
                postgres.execute(f"delete from {EVENT_TABLE} where ctid = '(0,1)'")
                store_events(postgres, archiving, day(10), {})
                postgres.execute("delete from ops.touched_windows")
            super().put(local, address)

    monkeypatch.setattr(module, "archive_store", lambda _: Slow(str(archiving.archive_url)))
    report = run_lifecycle(archiving)
    assert waiting_on(report, EVENT_TABLE) == ["it changed while it was archived"]
    assert count_of(postgres, EVENT_TABLE) == 2


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_an_event_that_is_committed_while_the_drop_waits_for_it_stays_whatever_isolation_the_database_gives(
    isolation: str, postgres: psycopg.Connection, settings: Settings, start: Start, patient: None
) -> None:
    postgres.execute(f"alter database {postgres.info.dbname} set default_transaction_isolation = '{isolation}'")
    store_events(postgres, settings, day(170), {})
    roll_up(postgres)
    [chunk] = chunks(postgres, EVENT_TABLE)
    with connect(settings) as connection, connection.transaction():
        late = as_items(event(event_time=day(170).isoformat()))
        assert ingest(connection, EVENTS, late, source="test", settings=settings, now=NOW).inserted == 1
        run = start(run_lifecycle, settings, now=NOW + timedelta(days=20))
        wait_for_locks(postgres, EVENT_TABLE)
    report = run.result(60)
    assert [dropped.chunk for dropped in report.dropped if dropped.chunk == chunk.name] == []
    assert all("is not rolled up" in reason for reason in waiting_on(report, EVENT_TABLE))
    assert count_of(postgres, EVENT_TABLE) == 2


def test_a_partition_in_use_waits_for_the_next_run(
    postgres: psycopg.Connection, other: psycopg.Connection, archiving: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_lifecycle, "LOCK_SECONDS", 0.1)
    store_events(postgres, archiving, day(10), {})
    roll_up(postgres)
    [chunk] = chunks(postgres, EVENT_TABLE)
    with held(other, chunk.name, "access share"):
        report = run_lifecycle(archiving)
    assert report.archived == []
    assert waiting_on(report, EVENT_TABLE) == ["in use"]
    with other.transaction():
        reading(other, EVENT_TABLE)
        assert waiting_on(run_lifecycle(archiving), EVENT_TABLE) == ["in use"]
    assert len(run_lifecycle(archiving).archived) == 1


def test_two_runs_at_once_archive_each_partition_once(
    postgres: psycopg.Connection, archiving: Settings, start: Start
) -> None:
    for days_ago in range(8, 16):
        store_events(postgres, archiving, day(days_ago), {}, {})
    store_archives(postgres, archiving)
    roll_up(postgres)
    before = {table: everywhere(postgres, archiving, table) for table in (EVENT_TABLE, ARCHIVE_TABLE)}
    reports = [run.result(120) for run in [start(run_lifecycle, archiving) for _ in range(3)]]
    assert [problem for report in reports for problem in report.problems] == []
    archived = sorted(packed.chunk for report in reports for packed in report.archived)
    assert len(archived) == len(set(archived)) == len(archives(postgres, only_in_files=True)) == 16
    assert {table: everywhere(postgres, archiving, table) for table in before} == before
    found = archives(postgres, only_in_files=True)

    def read_back() -> int:
        with connect(archiving) as connection:
            store = ArchiveStore(str(archiving.archive_url))
            return sum(restore(connection, store, archive, interval_hours=24).is_ours for archive in found)

    assert sum(run.result(120) for run in [start(read_back) for _ in range(2)]) == 16
    assert {table: everywhere(postgres, archiving, table) for table in before} == before


class Crash(Exception):
    """The process ended here."""


def crashing(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """The connection of the next run breaks before its statement of that number."""

    class Fragile(psycopg.Connection[Any]):
        calls = 0

        def execute(self, *arguments: Any, **options: Any) -> Any:
            Fragile.calls += 1
            if Fragile.calls > limit:
                self.close()
                raise Crash
            return super().execute(*arguments, **options)

    def fragile(settings: Settings) -> psycopg.Connection:
        url = settings.database_url.get_secret_value()
        return Fragile.connect(url, autocommit=True, options="-c timezone=UTC")

    monkeypatch.setattr("usage_pipeline.rollups.dropped.run.connect", fragile)


def test_a_run_that_is_cut_short_anywhere_loses_nothing(
    postgres: psycopg.Connection, archiving: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days_ago in (9, 10):
        store_events(postgres, archiving, day(days_ago), {}, {})
    store_archives(postgres, archiving)
    roll_up(postgres)
    tables = (EVENT_TABLE, ARCHIVE_TABLE)
    before = {table: everywhere(postgres, archiving, table) for table in tables}
    states = set()
    finished = 0
    for number in range(1, 2_000):
        crashing(monkeypatch, number)
        try:
            run_lifecycle(archiving)
            finished += 1
        except Crash:
            pass
        assert {table: everywhere(postgres, archiving, table) for table in tables} == before
        states.add((count_of(postgres, EVENT_TABLE), len(archives(postgres, only_in_files=True))))
        if finished == 1 and not archives(postgres):
            finished = 0
        if finished == 1:
            # Everything is in files: a late event for each, and the way back is cut short everywhere, too.
            for days_ago in (9, 10):
                store_events(postgres, archiving, day(days_ago), {})
            before[EVENT_TABLE] = everywhere(postgres, archiving, EVENT_TABLE)
            finished = 2
        if finished == 3:
            break
    assert finished == 3
    assert len(states) > 4
    assert count_of(postgres, EVENT_TABLE) == 6
    roll_up(postgres)
    age_restores(postgres)
    monkeypatch.undo()
    run_lifecycle(archiving)
    assert {table: everywhere(postgres, archiving, table) for table in tables} == before
    folder = Path(str(archiving.archive_url))
    live = {archive.address for archive in archives(postgres, only_in_files=True)}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")} == live
    assert count_of(postgres, "ops.archive_leftovers") == 0


KILLED = """
from usage_pipeline.settings import load_settings
from usage_pipeline.rollups.dropped.run import run_lifecycle
run_lifecycle(load_settings())
"""


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_run_that_is_killed_about_its_commit_loses_nothing(
    moment: str,
    postgres: psycopg.Connection,
    other: psycopg.Connection,
    archiving: Settings,
    launch: Any,
    start: Start,
) -> None:
    store_events(postgres, archiving, day(10), {}, {})
    roll_up(postgres)
    before = everywhere(postgres, archiving, EVENT_TABLE)
    [chunk] = chunks(postgres, EVENT_TABLE)
    environment = {
        "DATABASE_URL": archiving.database_url.get_secret_value(),
        "ARCHIVE_URL": str(archiving.archive_url),
    }
    with held(other, "ops.archives", "share row exclusive"):
        run = launch(KILLED, **environment)
        wait_for_locks(postgres, "ops.archives")
        if moment == "before the commit":
            run.kill()
        else:
            reader = start(_read_until, archiving, chunk.name, release := threading.Event())
            wait_for_locks(postgres, chunk.name)
    if moment == "after the commit":
        # The drop of the emptied partition waits for the reader.
        wait_for_the_drop(postgres, EVENT_TABLE)
        run.kill()
        release.set()
        reader.result(60)
    assert everywhere(postgres, archiving, EVENT_TABLE) == before
    report = run_lifecycle(archiving)
    assert report.leftovers_removed == (1 if moment == "before the commit" else 0)
    assert everywhere(postgres, archiving, EVENT_TABLE) == before
    assert count_of(postgres, EVENT_TABLE) == 0
    assert chunk not in chunks(postgres, EVENT_TABLE)


OLD = (MIDNIGHT - timedelta(days=10)).date()


def write_counters(client: redis.Redis, number: int) -> None:
    at = datetime(OLD.year, OLD.month, OLD.day, 12, tzinfo=UTC)
    ms = int(at.timestamp() * 1000)
    client.hset("apikey:a:metrics", mapping={"total_requests": number, "last_used_at": ms})
    client.hset("provider:a:s3:metrics", mapping={"user_id": "u", "upload_count": number, "last_used_at": ms})
    client.set("token_usage:t:i", f'{{"usageCount": {number}, "instanceId": "i", "lastUsedAt": "{at.isoformat()}"}}')
    members = f'"api_key_id": "a", "user_id": "u", "provider": "s3", "event_type": "upload", "file_size": {number}'
    event_id = f"00000000-0000-0000-0000-{number:012d}"
    client.rpush(
        "event_queue", f'{{"event_id": "{event_id}", {members}, "status": "success", "at": "{at.isoformat()}"}}'
    )


RAW = ("raw.api_key_deltas", "raw.provider_deltas", "raw.token_deltas", "raw.request_events")


def test_raw_days_are_archived_once_rolled_up_and_released_and_come_back_for_late_counts(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis
) -> None:
    write_counters(redis_client, 3)
    drain_once(archiving)
    report = run_lifecycle(archiving)
    assert [packed.table for packed in report.archived] == ["raw.request_events"]
    assert waiting_on(report, "raw.token") == [f"token of {OLD} is not rolled up"]
    for daily in DAILY_TABLES:
        replace_day(postgres, daily, OLD, today=NOW.date())
    postgres.execute("update ops.sync_batches set released_at = null where family = 'provider'")
    report = run_lifecycle(archiving)
    assert [packed.table for packed in report.archived] == ["raw.api_key_deltas", "raw.token_deltas"]
    assert waiting_on(report, "raw.provider")[0].endswith("is not released")
    roll_up(postgres)
    assert [packed.table for packed in run_lifecycle(archiving).archived] == ["raw.provider_deltas"]
    assert all(count_of(postgres, table) == 0 for table in RAW)
    with pytest.raises(SourceGoneError, match=f"archive restore {OLD}"):
        replace_day(postgres, DAILY_TABLES[0], OLD, today=NOW.date())
    write_counters(redis_client, 4)
    drain_once(archiving)
    # Neither replaced by less, nor asked for in vain.
    with pytest.raises(SourceGoneError, match="only in an archive file"):
        replace_day(postgres, DAILY_TABLES[0], OLD, today=NOW.date())
    assert stale_days(postgres, today=NOW.date()) == []
    report = run_lifecycle(archiving)
    assert sorted(moved.table for moved in report.restored) == sorted(RAW)
    assert len(stale_days(postgres, today=NOW.date())) == 3
    for daily in DAILY_TABLES:
        replace_day(postgres, daily, OLD, today=NOW.date())
    daily_sums = "select sum(total_requests) from usage.api_key_daily", "select sum(usage_count) from usage.token_daily"
    assert [postgres.execute(query).fetchall() for query in daily_sums] == [[(7,)], [(7,)]]
    short = archiving.model_copy(update={"retention_days": 8})
    report = run_lifecycle(short)
    assert sorted(moved.table for moved in report.dropped) == sorted(RAW)
    assert report.registry_rows_removed == count_of(postgres, "raw.request_event_ids") + 2 == 2


@pytest.mark.parametrize(("family", "table"), list(zip(("api_key", "provider", "token", "event"), RAW, strict=True)))
def test_a_drain_whose_partition_goes_away_under_it_loses_and_doubles_nothing(
    family: str,
    table: str,
    postgres: psycopg.Connection,
    other: psycopg.Connection,
    archiving: Settings,
    redis_client: redis.Redis,
    start: Start,
    patient: None,
) -> None:
    write_counters(redis_client, 3)
    drain_once(archiving)
    roll_up(postgres)
    chunk = f"{table}_{OLD:%Y%m%d}"
    postgres.execute("update ops.sync_batches set released_at = null where family <> %s", (family,))
    with held_up(postgres, other, start, archiving) as run:
        reader = start(_read_until, archiving, chunk, release := threading.Event())
        wait_for_locks(postgres, chunk)
    # The parent is locked, the drop waits for the reader; the drain waits for it, and then its partition is gone.
    wait_for_the_drop(postgres, table)
    write_counters(redis_client, 4)
    drain = start(drain_once, archiving, [family])
    wait_for_locks(postgres, table)
    release.set()
    reader.result(60)
    assert [packed.rows for packed in run.result(60).archived] == [1]
    assert drain.result(60).dead_letters == 0
    drain_once(archiving)
    postgres.execute("update ops.sync_batches set released_at = null where family <> %s", (family,))
    assert [moved.rows for moved in run_lifecycle(archiving).restored] == [1]
    assert postgres.execute("select total_requests from usage.api_keys").fetchall() == [(7,)]
    assert postgres.execute("select sum(total_requests), count(*) from raw.api_key_deltas").fetchall() == [(7, 2)]
    assert postgres.execute("select sum(upload_count) from raw.provider_deltas").fetchall() == [(7,)]
    assert postgres.execute("select sum(usage_count) from raw.token_deltas").fetchall() == [(7,)]
    assert postgres.execute("select sum(file_size) from raw.request_events").fetchall() == [(7,)]
    assert redis_client.keys("usage_pipeline:claim:*") == []


def test_whoever_holds_the_tables_lock_keeps_others_waiting_for_so_long_only(
    other: psycopg.Connection, postgres: psycopg.Connection
) -> None:
    with changing(other, EVENT_TABLE):
        busy = pytest.raises(ChunksBusy, match="another lifecycle run, restore or erasure is running")
        with busy, changing(postgres, EVENT_TABLE, wait_seconds=0.05):
            pytest.fail("two at once")
        with changing(postgres, ARCHIVE_TABLE, wait_seconds=0.05):
            pass
    postgres.execute("set lock_timeout = '7s'")
    with changing(postgres, EVENT_TABLE, wait_seconds=5):
        assert postgres.execute("show lock_timeout").fetchall() == [("7s",)]
    assert chunk_locks.LOCK_SECONDS < 5
    assert rows_of(postgres, EVENT_TABLE) == []

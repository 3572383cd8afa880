"""Declarative partitions: ahead, archived once their roll-ups are complete, read back exactly, dropped at the end."""

import itertools
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pyarrow.parquet as pq
import pytest

from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import archives, archives_of_day
from usage_pipeline.storage.archives.store import ArchiveDamaged, ArchiveStore, checksum
from usage_pipeline.storage.chunks.partitions import Chunk, chunks, ensure_chunks
from usage_pipeline.storage.chunks.tables import BY_NAME, waiting_reason
from usage_pipeline_tests.rigs import windows as event_store
from usage_pipeline_tests.storage.lifecycle_rig import (
    ARCHIVE_TABLE,
    EVENT_TABLE,
    HARD_VALUES,
    MIDNIGHT,
    age_restores,
    count_of,
    day,
    roll_up,
    rows_of,
    store_archives,
    store_events,
    waiting_on,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def archiving(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"archive_url": str(folder)})


@pytest.fixture
def old_day(postgres: psycopg.Connection, archiving: Settings) -> list[tuple[Any, ...]]:
    """A day of hard values that is rolled up and old enough; its rows as text."""
    store_events(postgres, archiving, day(10), *HARD_VALUES)
    store_archives(postgres, archiving, prompt_full="", response_full="ü\n\\N🦩")
    roll_up(postgres)
    return rows_of(postgres, EVENT_TABLE) + rows_of(postgres, ARCHIVE_TABLE)


def test_partitions_are_made_ahead_in_the_length_that_is_set(postgres: psycopg.Connection, settings: Settings) -> None:
    for hours in (48, 6, 12, 24):
        run_lifecycle(settings.model_copy(update={"chunk_time_interval_hours": hours}))
        for table in (EVENT_TABLE, ARCHIVE_TABLE):
            made = chunks(postgres, table)
            now = datetime.now(UTC)
            assert made[0].start <= now - timedelta(days=1)
            assert made[-1].end >= now + timedelta(days=3)
            assert all(before.end == after.start for before, after in itertools.pairwise(made))
    assert run_lifecycle(settings).created == []


@pytest.mark.parametrize("hours", [6, 12, 24, 48])
def test_an_archived_day_is_read_back_exactly(
    hours: int, postgres: psycopg.Connection, archiving: Settings, folder: Path
) -> None:
    archiving = archiving.model_copy(update={"chunk_time_interval_hours": hours})
    store_events(postgres, archiving, day(10), *HARD_VALUES)
    store_archives(postgres, archiving, prompt_full="", response_full="ü\n\\N🦩")
    roll_up(postgres)
    before = rows_of(postgres, EVENT_TABLE), rows_of(postgres, ARCHIVE_TABLE)
    report = run_lifecycle(archiving)
    assert [(packed.table, packed.rows) for packed in report.archived] == [(ARCHIVE_TABLE, 5), (EVENT_TABLE, 5)]
    assert all(packed.bytes_after > 0 and packed.bytes_before > 0 for packed in report.archived)
    assert count_of(postgres, EVENT_TABLE) == count_of(postgres, ARCHIVE_TABLE) == 0
    assert not [chunk for chunk in chunks(postgres, EVENT_TABLE) if chunk.start <= day(10) < chunk.end]
    assert sorted(path.stat().st_size for path in folder.rglob("*.parquet")) == sorted(
        archive.bytes for archive in archives(postgres)
    )
    store = ArchiveStore(str(folder))
    found = archives_of_day(postgres, day(10).date(), archiving.timezone)
    assert len(found) == 2
    for archive in found:
        assert restore(postgres, store, archive, interval_hours=hours).is_ours
        assert not restore(postgres, store, archive, interval_hours=hours).is_ours
    assert (rows_of(postgres, EVENT_TABLE), rows_of(postgres, ARCHIVE_TABLE)) == before
    assert archives(postgres, only_in_files=True) == []


def test_a_file_of_before_the_units_of_usage_is_read_back_without_them(
    postgres: psycopg.Connection, archiving: Settings, folder: Path
) -> None:
    store_events(postgres, archiving, day(10), {}, {"prompt": "a\tb", "extra": {"a": 1}})
    roll_up(postgres)
    before = rows_of(postgres, EVENT_TABLE)
    run_lifecycle(archiving)
    [archive] = archives(postgres, table=EVENT_TABLE)
    path = folder / archive.address
    whole = pq.read_table(path)
    names = whole.column_names
    added = names[names.index("cache_read_tokens") :]
    assert added[-1] == "external_id"
    pq.write_table(whole.drop_columns(added), path, compression="zstd")
    postgres.execute(
        "update ops.archives set bytes = %s, checksum = %s where archive_id = %s",
        (path.stat().st_size, checksum(path).checksum, archive.archive_id),
    )
    [archive] = archives(postgres, table=EVENT_TABLE)
    assert restore(postgres, ArchiveStore(str(folder)), archive, interval_hours=24).is_ours
    assert rows_of(postgres, EVENT_TABLE) == before


def test_a_restored_partition_is_like_a_fresh_one(
    postgres: psycopg.Connection, archiving: Settings, folder: Path, old_day: list[tuple[Any, ...]]
) -> None:
    def described(at: Any) -> list[tuple[Any, ...]]:
        """Columns, defaults, comments, constraints and indexes, without the partition's own name."""
        [chunk] = [chunk for chunk in chunks(postgres, EVENT_TABLE) if chunk.start <= at < chunk.end]
        mark = chunk.name.rpartition("_")[2]
        query = """
            select 'column', attname, format_type(atttypid, atttypmod), attnotnull::text, col_description(attrelid, attnum),
                pg_get_expr(adbin, adrelid)
            from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
            where attrelid = %(name)s::text::regclass and attnum > 0
            union all
            select 'constraint', conname, pg_get_constraintdef(oid), '', obj_description(oid, 'pg_constraint'), ''
            from pg_constraint where conrelid = %(name)s::text::regclass
            union all
            select 'index', replace(indexrelid::regclass::text, %(mark)s, '*'),
                replace(pg_get_indexdef(indexrelid), %(mark)s, '*'), indisvalid::text, null, null
            from pg_index where indrelid = %(name)s::text::regclass
            order by 1, 2
        """
        return postgres.execute(query, {"name": chunk.name, "mark": mark}).fetchall()

    run_lifecycle(archiving)
    for archive in archives(postgres):
        restore(postgres, ArchiveStore(str(folder)), archive, interval_hours=24)
    ensure_chunks(postgres, EVENT_TABLE, [day(20)], 24)
    fresh = described(day(20))
    assert {row[0] for row in fresh} == {"column", "constraint", "index"}
    assert described(day(10)) == fresh


def test_nothing_is_archived_before_its_roll_ups_are_complete(
    postgres: psycopg.Connection, archiving: Settings
) -> None:
    store_events(postgres, archiving, day(10), {})
    report = run_lifecycle(archiving)
    assert report.archived == []
    [reason] = waiting_on(report, EVENT_TABLE)
    assert reason.startswith("the ")
    assert reason.endswith("is not rolled up")
    roll_up(postgres)
    postgres.execute("delete from ops.touched_windows")
    # Hours and days are made from events. Weeks and months are made from daily tables, and keep nothing waiting.
    chunk = MIDNIGHT - timedelta(days=10)
    hour = timedelta(hours=1)
    for grain, start, is_in_the_way in [
        ("hour", chunk - hour, False),
        ("hour", chunk - hour / 2, True),
        ("hour", chunk + 23 * hour, True),
        ("hour", chunk + 24 * hour, False),
        ("day", chunk - 24 * hour, False),
        ("day", chunk, True),
        ("day", chunk + 24 * hour, False),
        ("week", chunk - timedelta(days=chunk.weekday()), False),
        ("month", chunk.replace(day=1), False),
    ]:
        postgres.execute("insert into ops.touched_windows (grain, window_start) values (%s, %s)", (grain, start))
        report = run_lifecycle(archiving)
        assert bool(report.archived) is not is_in_the_way, grain
        postgres.execute("delete from ops.touched_windows")
        if report.archived:
            for archive in archives(postgres, only_in_files=True):
                restore(postgres, ArchiveStore(str(archiving.archive_url)), archive, interval_hours=24)
            age_restores(postgres)


@pytest.mark.parametrize(
    ("zone", "day_start", "chunk_hour", "is_in_the_way"),
    [
        ("Europe/Vienna", "2025-06-10T22:00Z", 21, False),
        ("Europe/Vienna", "2025-06-10T22:00Z", 22, True),
        ("Europe/Vienna", "2025-06-10T22:00Z", 45, True),
        ("Europe/Vienna", "2025-06-10T22:00Z", 46, False),
        # A day of 25 hours.
        ("Europe/Vienna", "2025-10-25T22:00Z", 46, True),
        ("Europe/Vienna", "2025-10-25T22:00Z", 47, False),
        # Midnight comes twice, and the day is named after the second one.
        ("America/Havana", "2025-11-02T05:00Z", 3, False),
        ("America/Havana", "2025-11-02T05:00Z", 4, True),
        ("America/Havana", "2025-11-02T05:00Z", 28, True),
        ("America/Havana", "2025-11-02T05:00Z", 29, False),
    ],
)
def test_a_day_that_waits_keeps_the_hours_that_are_in_it_and_no_others(
    zone: str, day_start: str, chunk_hour: int, is_in_the_way: bool, postgres: psycopg.Connection
) -> None:
    postgres.execute("update ops.calendar set time_zone = %s", (zone,))
    start = datetime.fromisoformat(day_start)
    postgres.execute("insert into ops.touched_windows (grain, window_start) values ('day', %s)", (start,))
    chunk = start.replace(hour=0) + timedelta(hours=chunk_hour)
    reason = waiting_reason(
        postgres, BY_NAME[EVENT_TABLE], Chunk("a chunk of an hour", chunk, chunk + timedelta(hours=1))
    )
    assert (reason is not None) is is_in_the_way, reason


def test_partitions_are_archived_while_their_month_runs(postgres: psycopg.Connection, archiving: Settings) -> None:
    """COMPRESSION_AFTER_DAYS holds also when the week and the month are being changed by today's events."""
    now = MIDNIGHT.replace(day=28) + timedelta(hours=4, minutes=30)
    zone = archiving.timezone
    send = partial(event_store.store_events, postgres, archiving, now)
    send(*(event_store.event_at(now - timedelta(days=days, hours=2)) for days in range(20)))
    while stale := stale_windows(postgres, time_zone=zone, now=now):
        for one in stale:
            replace_window(postgres, one.window, settings=archiving, now=now)
    send(event_store.event_at(now - timedelta(minutes=30)))
    replace_window(postgres, day_window(now.date(), zone), settings=archiving, now=now)
    assert {"week", "month"} <= {grain for (grain,) in postgres.execute("select grain from ops.touched_windows")}
    archived = {packed.chunk[-10:-2] for packed in run_lifecycle(archiving, now=now).archived}
    assert archived == {f"{now - timedelta(days=days, hours=2):%Y%m%d}" for days in range(8, 20)}


def test_young_partitions_stay(postgres: psycopg.Connection, archiving: Settings) -> None:
    store_events(postgres, archiving, day(7), {})
    store_events(postgres, archiving, day(8), {})
    roll_up(postgres)
    report = run_lifecycle(archiving, now=MIDNIGHT + timedelta(hours=1))
    assert [packed.chunk for packed in report.archived] == [f"{EVENT_TABLE}_{day(8):%Y%m%d}00"]
    assert count_of(postgres, EVENT_TABLE) == 1


def test_a_late_event_brings_the_whole_chunk_back_and_it_is_archived_again_as_one(
    postgres: psycopg.Connection, archiving: Settings, folder: Path, old_day: list[tuple[Any, ...]]
) -> None:
    run_lifecycle(archiving)
    assert run_lifecycle(archiving).restored == []
    store_events(postgres, archiving, day(10) + timedelta(hours=1), {})
    assert count_of(postgres, EVENT_TABLE) == 1
    report = run_lifecycle(archiving)
    assert [(moved.table, moved.rows) for moved in report.restored] == [(ARCHIVE_TABLE, 5), (EVENT_TABLE, 5)]
    assert count_of(postgres, EVENT_TABLE) == 6
    assert report.archived == []
    roll_up(postgres)
    report = run_lifecycle(archiving)
    assert report.archived == []
    assert "stays for a day" in waiting_on(report, EVENT_TABLE)[0]
    age_restores(postgres)
    report = run_lifecycle(archiving)
    assert [(packed.table, packed.rows) for packed in report.archived] == [(ARCHIVE_TABLE, 5), (EVENT_TABLE, 6)]
    live = {archive.address for archive in archives(postgres, only_in_files=True)}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")} == live
    assert len(live) == 2


def test_a_late_event_leaves_the_neighbours_in_their_files_and_its_windows_are_rolled_up_after_the_way_back(
    postgres: psycopg.Connection, archiving: Settings
) -> None:
    windows = [day_window(day(ago).date(), archiving.timezone) for ago in (9, 10, 11)]
    for ago in (9, 10, 11):
        store_events(postgres, archiving, day(ago), {"model": "gpt-4o"}, {})
    for window in windows:
        replace_window(postgres, window, settings=archiving)
    roll_up(postgres)
    assert len(run_lifecycle(archiving).archived) == 3
    store_events(postgres, archiving, day(10), {})
    with pytest.raises(SourceGoneError, match=f"archive restore {day(10).date()}"):
        replace_window(postgres, windows[1], settings=archiving)
    assert [moved.rows for moved in run_lifecycle(archiving).restored] == [2]
    assert replace_window(postgres, windows[1], settings=archiving).sums["requests"] == 3
    with pytest.raises(SourceGoneError):
        replace_window(postgres, windows[0], settings=archiving)
    # The week and the month that the day has touched need no events.
    postgres.execute("delete from ops.touched_windows where grain = 'hour'")
    assert {grain for (grain,) in postgres.execute("select grain from ops.touched_windows")} == {"week", "month"}
    age_restores(postgres)
    assert [packed.rows for packed in run_lifecycle(archiving).archived] == [3]


def test_a_late_message_archive_brings_its_chunk_back(
    postgres: psycopg.Connection, archiving: Settings, old_day: list[tuple[Any, ...]]
) -> None:
    store_events(postgres, archiving, day(10), {})
    roll_up(postgres)
    run_lifecycle(archiving)
    store_archives(postgres, archiving)
    report = run_lifecycle(archiving)
    assert [(moved.table, moved.rows) for moved in report.restored] == [(ARCHIVE_TABLE, 5)]
    assert count_of(postgres, ARCHIVE_TABLE) == 6


def test_without_a_place_for_archives_partitions_stay_until_the_retention(
    postgres: psycopg.Connection, settings: Settings
) -> None:
    store_events(postgres, settings, day(10), {})
    store_events(postgres, settings, day(100), {})
    roll_up(postgres)
    report = run_lifecycle(settings.model_copy(update={"retention_days": 90}))
    assert "ARCHIVE_URL is not set" in report.archive_place
    assert report.archived == []
    assert [moved.chunk for moved in report.dropped] == [f"{EVENT_TABLE}_{day(100):%Y%m%d}00"]
    assert count_of(postgres, EVENT_TABLE) == count_of(postgres, "analytics.usage_event_ids") == 1


def test_at_the_end_of_the_retention_partition_file_and_registry_go(
    postgres: psycopg.Connection, archiving: Settings, folder: Path, old_day: list[tuple[Any, ...]]
) -> None:
    store_events(postgres, archiving, day(2), {})
    run_lifecycle(archiving)
    assert len(list(folder.rglob("*.parquet"))) == 2
    assert count_of(postgres, "analytics.usage_event_ids") == 6
    store_events(postgres, archiving, day(9), {})
    short = archiving.model_copy(update={"retention_days": 8})
    report = run_lifecycle(short)
    # The late event waits for its roll-up. The file of the day before is complete.
    assert {moved.table for moved in report.dropped} == {EVENT_TABLE, ARCHIVE_TABLE}
    assert waiting_on(report, f"{day(9):%Y%m%d}") != []
    assert waiting_on(report, f"{day(10):%Y%m%d}") == []
    assert count_of(postgres, "analytics.usage_event_ids") == 2
    roll_up(postgres)
    report = run_lifecycle(short)
    assert {moved.table for moved in report.dropped} == {EVENT_TABLE}
    assert list(folder.rglob("*.parquet")) == []
    assert report.registry_rows_removed == 1
    for table in (EVENT_TABLE, "analytics.usage_event_ids"):
        assert count_of(postgres, table) == 1
    assert count_of(postgres, "analytics.message_archive_ids") == 0
    assert {archive.state for archive in archives(postgres)} <= {"deleted", "restored"}
    again = run_lifecycle(short)
    assert (again.dropped, again.registry_rows_removed, again.problems) == ([], 0, [])


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "rows"])
def test_a_file_that_is_not_the_manifests_is_never_read_back(
    damage: str, postgres: psycopg.Connection, archiving: Settings, folder: Path, old_day: list[tuple[Any, ...]]
) -> None:
    run_lifecycle(archiving)
    [archive] = archives(postgres, table=EVENT_TABLE)
    file = folder / archive.address
    whole = file.read_bytes()
    if damage == "byte":
        file.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    elif damage == "cut":
        file.write_bytes(whole[:-1])
    elif damage == "gone":
        file.unlink()
    else:
        postgres.execute("update ops.archives set rows = rows + 1")
    [archive] = archives(postgres, table=EVENT_TABLE)
    with pytest.raises(ArchiveDamaged, match="expected"):
        restore(postgres, ArchiveStore(str(folder)), archive, interval_hours=24)
    assert count_of(postgres, EVENT_TABLE) == 0
    # The lifecycle run says so, goes on with the others, and leaves the manifest as it is.
    store_events(postgres, archiving, day(10), {})
    report = run_lifecycle(archiving)
    assert any(archive.address in problem for problem in report.problems)
    assert [each.restored_at for each in archives(postgres, table=EVENT_TABLE)] == [None]


class _Spoiling(ArchiveStore):
    """A place that keeps another byte than it was given."""

    def put(self, local: Path, address: str) -> None:
        whole = local.read_bytes()
        local.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        super().put(local, address)


def test_a_file_that_was_stored_wrong_never_lets_a_partition_go(
    postgres: psycopg.Connection,
    archiving: Settings,
    folder: Path,
    old_day: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usage_pipeline.storage.lifecycle.run.archive_store", lambda _: _Spoiling(str(folder)))
    report = run_lifecycle(archiving)
    assert report.archived == []
    assert len(report.problems) == 2
    assert rows_of(postgres, EVENT_TABLE) + rows_of(postgres, ARCHIVE_TABLE) == old_day
    assert archives(postgres) == []
    monkeypatch.undo()
    report = run_lifecycle(archiving)
    assert report.leftovers_removed == 2
    assert len(report.archived) == len(list(folder.rglob("*.parquet"))) == 2


def test_archives_may_be_at_any_fsspec_address(
    postgres: psycopg.Connection, archiving: Settings, old_day: list[tuple[Any, ...]]
) -> None:
    url = f"memory://archive-{id(old_day)}"
    report = run_lifecycle(archiving.model_copy(update={"archive_url": url}))
    assert "memory" in report.archive_place
    found = archives(postgres, only_in_files=True)
    assert len(found) == 2
    assert fsspec.filesystem("memory").exists(f"{url}/{found[0].address}")
    for archive in found:
        restore(postgres, ArchiveStore(url), archive, interval_hours=24)
    assert rows_of(postgres, EVENT_TABLE) + rows_of(postgres, ARCHIVE_TABLE) == old_day


def test_a_place_that_does_not_answer_costs_nothing(
    postgres: psycopg.Connection, archiving: Settings, tmp_path: Path, old_day: list[tuple[Any, ...]]
) -> None:
    (tmp_path / "file").write_text("")
    report = run_lifecycle(archiving.model_copy(update={"archive_url": str(tmp_path / "file")}))
    assert len(report.problems) == 2
    assert "ARCHIVE_URL: cannot write" in report.problems[0]
    assert rows_of(postgres, EVENT_TABLE) + rows_of(postgres, ARCHIVE_TABLE) == old_day


def test_secrets_of_the_address_are_never_shown() -> None:
    from usage_pipeline.storage.archives.store import ArchiveUnavailable

    with pytest.raises(ArchiveUnavailable) as raised:
        ArchiveStore("nowhere://key:hunter2@host/bucket")
    assert "hunter2" not in str(raised.value)

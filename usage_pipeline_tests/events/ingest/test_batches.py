"""Batches of events and archives: each item once, whatever overlaps, and a report that adds up."""

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, Kind, ingest
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.chunks.partitions import chunks, ensure_chunks
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event


@pytest.fixture
def stored(postgres: psycopg.Connection, settings: Settings) -> Any:
    """Stores members as a batch, and returns its report."""

    def store(*members: dict[str, Any], kind: Kind = EVENTS, source: str = "test") -> IngestReport:
        return ingest(postgres, kind, as_items(*members), source=source, settings=settings, now=NOW)

    return store


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.inserted, report.duplicates, report.conflicts, len(report.rejected)


def count_of(postgres: psycopg.Connection, table: str) -> int:
    [(rows,)] = postgres.execute(f"select count(*) from {table}").fetchall()
    return rows


def test_an_event_is_stored_as_it_came(stored: Any, postgres: psycopg.Connection) -> None:
    at = NOW - timedelta(days=2, microseconds=7)
    members = event(
        event_time=at.isoformat(),
        user_id="ü\\N",
        prompt="tab\there\nline",
        extra={"a": [1, {"b": None}]},
        error_type="x",
    )
    report = stored(members, source="http:token-1")
    assert counts(report) == (1, 0, 0, 0)
    columns = ", ".join(members)
    [row] = postgres.execute(f"select {columns}, total_tokens, created_at from analytics.usage_events").fetchall()
    assert row[:-2] == (uuid.UUID(members["event_id"]), at, *list(members.values())[2:])
    assert row[-2] == 120
    assert abs(row[-1] - datetime.now(UTC)) < timedelta(minutes=1)
    ledger = (
        "select batch_id, kind, source, received, inserted, duplicates, conflicts, rejected from ops.ingest_batches"
    )
    assert postgres.execute(ledger).fetchall() == [(report.batch_id, "events", "http:token-1", 1, 1, 0, 0, 0)]


def test_rejected_items_cost_no_other_and_are_reported_by_index(stored: Any, postgres: psycopg.Connection) -> None:
    report = stored(event(), event(team=""), event(), event(event_time="x"), event())
    assert counts(report) == (3, 0, 0, 2)
    assert [(rejection.index, rejection.reason.partition(":")[0]) for rejection in report.rejected] == [
        (1, "team"),
        (3, "event_time"),
    ]
    assert count_of(postgres, "analytics.usage_events") == 3


def test_nothing_but_rejected_items_is_a_batch_too(stored: Any, postgres: psycopg.Connection) -> None:
    assert counts(stored(event(team=""))) == (0, 0, 0, 1)
    assert count_of(postgres, "ops.ingest_batches") == 1


def test_the_same_id_again_is_a_duplicate_whatever_its_time_and_day(stored: Any, postgres: psycopg.Connection) -> None:
    first = event()
    assert counts(stored(first)) == (1, 0, 0, 0)
    later = first | {"event_time": (NOW - timedelta(days=3)).isoformat()}
    assert counts(stored(first, later, event())) == (1, 2, 0, 0)
    [(at,)] = postgres.execute(
        "select event_time from analytics.usage_events where event_id = %s", (first["event_id"],)
    )
    assert at.isoformat() == datetime.fromisoformat(first["event_time"]).astimezone(at.tzinfo).isoformat()


def test_the_same_id_twice_in_a_batch_keeps_the_first(stored: Any, postgres: psycopg.Connection) -> None:
    first = event(model="first")
    second = first | {"model": "second"}
    assert counts(stored(first, first, second)) == (1, 1, 1, 0)
    assert postgres.execute("select model from analytics.usage_events").fetchall() == [("first",)]


def test_another_payload_under_a_stored_id_is_a_conflict_with_both_hashes(
    stored: Any, postgres: psycopg.Connection
) -> None:
    first = event()
    other = first | {"latency_ms": 351}
    stored(first)
    batch = stored(other, other)
    assert counts(batch) == (0, 0, 2, 0)
    assert counts(stored(other)) == (0, 0, 1, 0)
    assert counts(stored(first)) == (0, 1, 0, 0)
    columns = (
        "kind, event_id::text, other_payload, batch_id, times, octet_length(stored_hash), octet_length(other_hash)"
    )
    assert postgres.execute(f"select {columns} from ops.event_conflicts").fetchall() == [
        ("events", first["event_id"], as_items(other)[0], batch.batch_id, 3, 16, 16)
    ]
    [(stored_hash, other_hash, registered)] = postgres.execute(
        "select stored_hash, other_hash, payload_hash from ops.event_conflicts join analytics.usage_event_ids using (event_id)"
    ).fetchall()
    assert stored_hash == registered != other_hash
    assert postgres.execute("select latency_ms from analytics.usage_events").fetchall() == [(350,)]


def test_concurrent_batches_with_overlapping_ids_neither_deadlock_nor_double(
    database_url: str, postgres: psycopg.Connection, settings: Settings
) -> None:
    shared = [event(model=f"model-{number}") for number in range(200)]
    barrier = threading.Barrier(4)

    def send(number: int) -> list[IngestReport]:
        reports = []
        with psycopg.connect(database_url, autocommit=True) as connection:
            for turn in range(5):
                own = [event() for _ in range(50)]
                mixed = [*shared[turn * 40 :], *own, *shared[: turn * 40]]
                if number % 2:
                    mixed.reverse()
                barrier.wait(60)
                reports.append(ingest(connection, EVENTS, as_items(*mixed), source="test", settings=settings))
        return reports

    with ThreadPoolExecutor(4) as pool:
        reports = [report for reports in pool.map(send, range(4)) for report in reports]
    totals = Counter[str]()
    for report in reports:
        totals.update(inserted=report.inserted, duplicates=report.duplicates, conflicts=report.conflicts)
    assert totals == {"inserted": 200 + 4 * 5 * 50, "duplicates": 19 * 200, "conflicts": 0}
    assert count_of(postgres, "analytics.usage_events") == count_of(postgres, "analytics.usage_event_ids") == 1200


def test_a_batch_that_fails_leaves_nothing(
    stored: Any, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.execute("alter table ops.ingest_batches add check (source <> 'refused')")
    with pytest.raises(psycopg.errors.CheckViolation):
        stored(event(), source="refused")
    for table in ("analytics.usage_events", "analytics.usage_event_ids", "ops.touched_windows", "ops.ingest_batches"):
        assert count_of(postgres, table) == 0
    assert counts(stored(event())) == (1, 0, 0, 0)


def test_a_partition_that_goes_away_under_a_batch_is_made_anew(
    stored: Any, postgres: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = event()
    stored(first)
    [chunk] = chunks(postgres, "analytics.usage_events")
    from usage_pipeline.events.ingest import batches as module

    whole = module.ensure_chunks
    calls = []

    def ensured_then_lost(*arguments: Any) -> Any:
        made = whole(*arguments)
        if not calls:
            postgres.execute(f"drop table {chunk.name}")
        calls.append(made)
        return made

    monkeypatch.setattr(module, "ensure_chunks", ensured_then_lost)
    assert counts(stored(first, event())) == (1, 1, 0, 0)
    assert len(calls) == 2


def test_new_events_need_no_staging_and_the_same_again_is_told_apart(stored: Any, postgres: psycopg.Connection) -> None:
    staged = "select to_regclass('pg_temp.staged_usage_event') is not null"
    stored(event())  # makes the partition
    postgres.execute("discard temp")
    batch = [event(), event(team=""), event(prompt="a\tb\\N", extra={"a": "\n"}, latency_ms=None), event(team="a\\")]
    assert counts(stored(*batch)) == (3, 0, 0, 1)
    assert postgres.execute(staged).fetchone() == (False,)
    assert counts(stored(*batch)) == (0, 3, 0, 1)
    assert postgres.execute(staged).fetchone() == (True,)
    columns = "event_id::text, event_time, team, prompt, extra, latency_ms, total_tokens"
    rows = {row[0]: row[1:] for row in postgres.execute(f"select {columns} from analytics.usage_events")}
    assert rows[batch[2]["event_id"]][1:] == ("search", "a\tb\\N", {"a": "\n"}, None, 120)
    assert rows[batch[3]["event_id"]][1] == "a\\"
    assert rows[batch[0]["event_id"]][0] == datetime.fromisoformat(batch[0]["event_time"])
    [(alike,)] = postgres.execute(
        "select bool_and(stored.event_time = registry.event_time) from analytics.usage_events as stored"
        " join analytics.usage_event_ids as registry using (event_id)"
    )
    assert alike


@pytest.mark.parametrize("is_partition_there", [False, True])
def test_touched_hours_and_days_are_noted_in_the_usage_time_zone(
    postgres: psycopg.Connection, database_url: str, redis_url: str, is_partition_there: bool
) -> None:
    settings = load_settings(database_url=database_url, redis_url=redis_url, usage_timezone="Asia/Kolkata")
    postgres.execute("update ops.calendar set time_zone = 'Asia/Kolkata'")
    at = (NOW - timedelta(days=3)).replace(hour=20, minute=10, second=0)
    batch = [
        event(event_time=at.isoformat()),
        event(event_time=(at + timedelta(minutes=15)).isoformat()),
        event(team=""),
    ]
    if is_partition_there:
        ensure_chunks(postgres, "analytics.usage_events", [at, at + timedelta(minutes=15)], 24)
    ingest(postgres, EVENTS, as_items(*batch), source="test", settings=settings, now=NOW)
    ingest(postgres, EVENTS, as_items(*batch), source="test", settings=settings, now=NOW)  # duplicates touch nothing
    windows = postgres.execute("select grain, window_start from ops.touched_windows order by 1, 2").fetchall()
    assert windows == [("day", at.replace(hour=18, minute=30)), ("hour", at.replace(minute=30) - timedelta(hours=1))]


def test_archives_belong_to_a_stored_event_and_are_stored_once(stored: Any, postgres: psycopg.Connection) -> None:
    known = event()
    stored(known)
    ids = known["event_id"]
    unknown = str(uuid.uuid4())
    report = stored(archive(ids), archive(unknown), archive(ids), kind=ARCHIVES)
    assert counts(report) == (1, 1, 0, 1)
    assert [(each.index, each.reason) for each in report.rejected] == [
        (1, f"event_id: expected the id of a stored event, came {unknown}")
    ]
    assert counts(stored(archive(ids, response_full="Another."), kind=ARCHIVES)) == (0, 0, 1, 0)
    columns = "event_id::text, event_time, user_id, service, prompt_full, response_full"
    assert postgres.execute(f"select {columns} from analytics.message_archives").fetchall() == [
        (
            ids,
            datetime.fromisoformat(known["event_time"]),
            "user-1",
            "chat",
            "What is a ledger?",
            "A book of accounts.",
        )
    ]


@pytest.mark.parametrize("hours", [6, 12, 24, 48])
def test_chunks_have_the_length_that_is_set(
    hours: int, postgres: psycopg.Connection, database_url: str, redis_url: str
) -> None:
    settings = load_settings(database_url=database_url, redis_url=redis_url, chunk_time_interval_hours=hours)
    times = [NOW - timedelta(hours=offset) for offset in range(0, 240, 5)]
    ingest(
        postgres,
        EVENTS,
        as_items(*(event(event_time=at.isoformat()) for at in times)),
        source="test",
        settings=settings,
        now=NOW,
    )
    made = chunks(postgres, "analytics.usage_events")
    assert {chunk.end - chunk.start for chunk in made} == {timedelta(hours=hours)}
    assert all(chunk.start.timestamp() % (hours * 3600) == 0 for chunk in made)
    assert count_of(postgres, "analytics.usage_events") == len(times)


def test_another_chunk_length_fits_between_what_is_there(
    postgres: psycopg.Connection, database_url: str, redis_url: str
) -> None:
    day = (NOW - timedelta(days=10)).replace(hour=0, minute=0, second=0)
    lengths = [
        (24, timedelta(hours=30)),
        (6, timedelta(hours=50)),
        (48, timedelta(0)),
        (48, timedelta(hours=75)),
        (6, timedelta(1)),
    ]
    for hours, offset in lengths:
        settings = load_settings(database_url=database_url, redis_url=redis_url, chunk_time_interval_hours=hours)
        times = as_items(event(event_time=(day + offset).isoformat()), event(event_time=(day + 3 * offset).isoformat()))
        ingest(postgres, EVENTS, times, source="test", settings=settings, now=NOW)
    made = chunks(postgres, "analytics.usage_events")
    assert all(before.end <= after.start for before, after in pairwise(made))
    assert count_of(postgres, "analytics.usage_events") == 10

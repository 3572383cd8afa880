"""An event that was wrong is taken out or replaced, with a note, and never comes back by being sent again."""

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.corrections import events as module
from usage_pipeline.events.corrections.events import Corrected, Wanted, correct, event_id_of
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, Kind, ingest
from usage_pipeline.rollups.calendar import day_window, hour_window
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event
from usage_pipeline_tests.rigs.windows import archive_chunk

AT = (NOW - timedelta(days=3)).replace(hour=10, minute=30, second=0)
LATER = AT + timedelta(days=1, hours=2)
Correct = Callable[..., list[Corrected]]


@pytest.fixture
def stored(postgres: psycopg.Connection, settings: Settings) -> Callable[..., IngestReport]:
    def store(*members: dict[str, Any], kind: Kind = EVENTS) -> IngestReport:
        return ingest(postgres, kind, as_items(*members), source="test", settings=settings, now=NOW)

    return store


@pytest.fixture
def corrected(postgres: psycopg.Connection, settings: Settings) -> Correct:
    """Takes out what is an id, and replaces by what has members."""

    def make(*wanted: str | dict[str, Any], reason: str = "test") -> list[Corrected]:
        steps = [
            Wanted(reason, uuid.UUID(one)) if isinstance(one, str) else Wanted(reason, event=as_items(one)[0])
            for one in wanted
        ]
        return correct(postgres, steps, corrected_by="me", settings=settings, now=NOW)

    return make


def outcomes(found: list[Corrected]) -> list[str]:
    return [one.outcome for one in found]


def rows(postgres: psycopg.Connection) -> list[tuple[Any, ...]]:
    query = "select event_id::text, event_time, input_tokens from analytics.usage_events order by 1"
    return postgres.execute(query).fetchall()


def touched(postgres: psycopg.Connection) -> set[tuple[str, datetime]]:
    return set(postgres.execute("delete from ops.touched_windows returning grain, window_start").fetchall())


def windows_of(*moments: datetime) -> set[tuple[str, datetime]]:
    hours = {("hour", at.replace(minute=0)) for at in moments}
    return hours | {("day", at.replace(hour=0, minute=0)) for at in moments}


def test_a_voided_event_is_gone_and_stays_gone(stored: Any, corrected: Correct, postgres: psycopg.Connection) -> None:
    wrong, right = event(event_time=AT.isoformat(), prompt="secret"), event(event_time=AT.isoformat())
    stored(wrong, right)
    touched(postgres)
    assert outcomes(corrected(wrong["event_id"], reason=" sent twice ")) == ["corrected"]
    assert rows(postgres) == [(right["event_id"], AT, 100)]
    assert touched(postgres) == windows_of(AT)
    assert outcomes(corrected(wrong["event_id"])) == ["already"]
    assert touched(postgres) == set()
    report = stored(wrong)
    assert (report.duplicates, report.conflicts, report.inserted) == (1, 0, 0)
    [note] = postgres.execute(
        "select corrected_by, reason, subject, event_id::text, before, after from ops.corrections"
    ).fetchall()
    assert note[:4] == ("me", "sent twice", f"event {wrong['event_id']}", wrong["event_id"])
    assert (note[4]["input_tokens"], note[4]["user_id"], note[5]) == (100, "user-1", {})
    assert "secret" not in str(note)


def test_a_replaced_event_has_all_of_the_new_one_and_both_times_are_made_again(
    stored: Any, corrected: Correct, postgres: psycopg.Connection
) -> None:
    first = event(event_time=AT.isoformat(), input_tokens=900_000, prompt="p", extra={"a": None})
    new = event(
        event_id=first["event_id"],
        event_time=LATER.isoformat(),
        input_tokens=900,
        user_id="tab\tü\\N",
        extra={"b": [1, 10**30, None]},
        latency_ms=...,
    )
    stored(first)
    touched(postgres)
    assert outcomes(corrected(new)) == ["corrected"]
    assert touched(postgres) == windows_of(AT, LATER)
    [row] = postgres.execute(
        "select event_time, input_tokens, total_tokens, user_id, prompt, extra, latency_ms, created_at "
        "from analytics.usage_events"
    ).fetchall()
    assert row[:-1] == (LATER, 900, 920, "tab\tü\\N", None, {"b": [1, 10**30, None]}, None)
    assert datetime.now(UTC) - row[-1] < timedelta(minutes=1)
    [(before, after)] = postgres.execute("select before, after from ops.corrections").fetchall()
    assert (before["input_tokens"], after["input_tokens"]) == (900_000, 900)
    assert outcomes(corrected(new)) == ["already"]


def test_no_version_that_ever_counted_comes_back_or_alarms(
    stored: Any, corrected: Correct, postgres: psycopg.Connection
) -> None:
    versions = [
        event(event_time=AT.isoformat(), event_id=str(uuid.UUID(int=7)), input_tokens=count) for count in range(4)
    ]
    stored(versions[0])
    assert outcomes(corrected(versions[1], versions[2])) == ["corrected", "corrected"]
    report = stored(*versions)
    assert (report.duplicates, report.conflicts) == (3, 1)
    assert rows(postgres) == [(versions[0]["event_id"], AT, 2)]
    # A first version may be right after all.
    assert outcomes(corrected(versions[0])) == ["corrected"]
    assert (stored(*versions).duplicates, rows(postgres)[0][2]) == (3, 0)


def test_a_voided_event_can_be_put_back(stored: Any, corrected: Correct, postgres: psycopg.Connection) -> None:
    first = event(event_time=AT.isoformat())
    stored(first)
    corrected(first["event_id"])
    touched(postgres)
    assert outcomes(corrected(first)) == ["corrected"]
    assert touched(postgres) == windows_of(AT)
    assert rows(postgres) == [(first["event_id"], AT, 100)]
    other = first | {"input_tokens": 5, "event_time": LATER.isoformat()}
    corrected(first["event_id"])
    assert outcomes(corrected(other)) == ["corrected"]
    assert rows(postgres) == [(first["event_id"], LATER, 5)]
    assert stored(first, other).duplicates == 2


def test_what_cannot_be_corrected_is_refused_with_the_reason_and_keeps_no_other(
    stored: Any, corrected: Correct, postgres: psycopg.Connection, settings: Settings
) -> None:
    in_file, dropped, old, good = (
        event(event_time=(NOW - timedelta(days=days)).isoformat()) for days in (10, 20, settings.retention_days - 1, 3)
    )
    stored(in_file, dropped, old, good)
    archive_chunk(postgres, day_window((NOW - timedelta(days=10)).date(), settings.timezone))
    gone = day_window((NOW - timedelta(days=20)).date(), settings.timezone)
    postgres.execute(
        "insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept) "
        "values ('analytics.usage_events', %s, %s, 'test', true)",
        (gone.first, gone.end),
    )
    unknown = str(uuid.uuid4())
    found = corrected(
        *(one["event_id"] for one in (in_file, dropped, old)),
        unknown,
        good | {"event_time": in_file["event_time"]},
        good | {"team": ""},
        good["event_id"],
    )
    assert outcomes(found) == ["refused"] * 6 + ["corrected"]
    day = f"{NOW - timedelta(days=10):%Y-%m-%d}"
    for one, said in zip(
        found,
        (
            f"usage-pipeline archive restore {day}",
            "dropped at the end of the retention",
            f"RETENTION_DAYS={settings.retention_days}",
            f"expected the id of a stored event, came {unknown}",
            f"usage-pipeline archive restore {day}",
            "team: expected 1 to 200 characters",
            "",
        ),
        strict=True,
    ):
        assert said in one.refusal
    assert len(rows(postgres)) == 3
    assert postgres.execute("select count(*) from ops.corrections").fetchall() == [(1,)]


def test_a_message_archive_stays_and_moves_with_the_time_of_its_event(
    stored: Any, corrected: Correct, postgres: psycopg.Connection
) -> None:
    first = event(event_time=AT.isoformat())
    stored(first)
    stored(archive(first["event_id"]), kind=ARCHIVES)
    corrected(first | {"event_time": LATER.isoformat()})
    texts = "select event_time, prompt_full from analytics.message_archives"
    assert postgres.execute(texts).fetchall() == [(LATER, "What is a ledger?")]
    corrected(first["event_id"])
    assert postgres.execute(texts).fetchall() == [(LATER, "What is a ledger?")]
    corrected(first)
    assert postgres.execute(texts).fetchall() == [(AT, "What is a ledger?")]
    postgres.execute("delete from analytics.message_archives")
    [found] = corrected(first | {"event_time": LATER.isoformat()})
    assert "only in an archive file" in found.refusal
    assert rows(postgres) == [(first["event_id"], AT, 100)]


def test_windows_are_made_again_and_late_data_tells(
    stored: Any, corrected: Correct, postgres: psycopg.Connection, settings: Settings
) -> None:
    events = [event(event_time=AT.isoformat(), input_tokens=count) for count in (1_000_000, 10)]
    stored(*events)

    def make() -> list[str]:
        found = stale_windows(postgres, time_zone=settings.timezone, now=NOW)
        for one in found:
            replace_window(postgres, one.window, settings=settings, now=NOW)
        return [one.window.grain for one in found]

    def sums() -> list[Any]:
        return [
            postgres.execute(f"select sum(requests), sum(input_tokens) from analytics.usage_{grain}").fetchone()
            for grain in ("hourly", "daily", "weekly", "monthly")
        ]

    while make():
        pass
    assert sums()[:2] == [(2, 1_000_010)] * 2
    postgres.execute("delete from ops.late_data")
    corrected(events[0] | {"input_tokens": 1_000}, events[1]["event_id"])
    while make():
        pass
    assert sums()[:2] == [(1, 1_000)] * 2
    told = postgres.execute(
        "select before, after from ops.late_data where table_name = 'analytics.usage_daily'"
    ).fetchall()
    assert [(before["requests"], after["requests"]) for before, after in told] == [(2, 1)]
    hour = hour_window(AT, settings.timezone)
    assert replace_window(postgres, hour, settings=settings, now=NOW).changed_rows == 0


def test_an_id_of_a_source_is_the_one_that_the_contracts_say() -> None:
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "urn:usage-pipeline:event")
    assert event_id_of("chatcmpl-213", "gateway") == uuid.uuid5(namespace, "gateway\0chatcmpl-213")
    known = uuid.uuid4()
    assert event_id_of(str(known).upper()) == known
    assert event_id_of(str(known), "gateway") == known, "a UUID is unique over all sources, as the ingest stores it"
    with pytest.raises(Malformed, match="the source that gave it"):
        event_id_of("chatcmpl-213")


def test_a_replacement_needs_the_source_of_an_id_that_is_no_uuid(
    run: Run, settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    # Events as the command sees them: `now` is the real one.
    at = datetime.now(UTC).isoformat()
    landed, other, known = (event(event_id=name, event_time=at) for name in ("chat-1", "chat-1", str(uuid.uuid4())))
    ingest(postgres, EVENTS, as_items(landed, known), source="a file", settings=settings)
    ingest(postgres, EVENTS, as_items(other), source="http", settings=settings, sender="gateway")
    file = tmp_path / "right.jsonl"
    file.write_text("\n".join(json.dumps(one | {"input_tokens": 7}) for one in (landed, known)))
    done = run("events", "replace", file, "--reason", "wrong", "--json")
    [refused] = json.loads(done.stdout)["refused"]
    assert (done.returncode, json.loads(done.stdout)["corrected"]) == (1, 1)
    assert "expected a UUID, or another id and the source that gave it, came 'chat-1'" in refused["refusal"]
    for source, left in (("gateway", 1), ("landing", 0)):
        assert run("events", "replace", file, "--reason", "wrong", "--source", source).returncode == 0
        query = "select count(*) from analytics.usage_events where input_tokens <> 7"
        assert postgres.execute(query).fetchone() == (left,)
    file.write_text(json.dumps(landed | {"input_tokens": 8, "source": "gateway"}))
    assert run("events", "replace", file, "--reason", "wrong").returncode == 0, "the event names its source"


def test_a_correction_needs_a_reason(corrected: Correct, stored: Any, postgres: psycopg.Connection) -> None:
    first = event(event_time=AT.isoformat())
    stored(first)
    [found] = corrected(first["event_id"], reason=" ")
    assert (found.outcome, found.refusal[:7]) == ("refused", "reason:")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        postgres.execute("select ops.correct_event(%s, null, null, 'me', ' ', '2000-01-01', 'x')", (first["event_id"],))
    assert len(rows(postgres)) == 1


def test_corrections_and_retries_at_the_same_time_leave_one_row_and_a_note_for_each(
    stored: Any, postgres: psycopg.Connection, settings: Settings, database_url: str
) -> None:
    events = [event(event_time=AT.isoformat(), input_tokens=1) for _ in range(20)]
    stored(*events)
    start = threading.Barrier(6)

    def work(number: int) -> list[str]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            start.wait()
            if number < 2:
                ingest(connection, EVENTS, as_items(*events[:: 1 - 2 * number]), source="t", settings=settings, now=NOW)
                return []
            # All at once, and in another order each.
            news = [one | {"input_tokens": number} for one in events[:: 1 - 2 * (number % 2)]]
            steps = [Wanted("test", event=item) for item in as_items(*news)]
            return outcomes(correct(connection, steps, corrected_by=f"{number}", settings=settings, now=NOW))

    with ThreadPoolExecutor(6) as pool:
        made = [outcome for some in pool.map(work, range(6)) for outcome in some]
    assert made == ["corrected"] * 80
    assert [row[0] for row in rows(postgres)] == sorted(one["event_id"] for one in events)
    last = "select distinct on (event_id) event_id::text, (after ->> 'input_tokens')::int from ops.corrections"
    notes = postgres.execute(f"{last} order by event_id, correction_id desc").fetchall()
    assert [(event_id, count) for event_id, _, count in rows(postgres)] == notes
    assert postgres.execute("select count(*) from analytics.superseded_events").fetchall() == [(80,)]
    report = stored(*events, *(one | {"input_tokens": number} for number in range(2, 6) for one in events))
    assert (report.duplicates, report.conflicts) == (100, 0)


@given(st.lists(st.none() | st.integers(0, 40), max_size=30))
def test_all_that_is_wanted_is_in_one_portion_and_large_events_are_in_smaller_ones(sizes: list[int | None]) -> None:
    wanted = [Wanted(f"{number}", event=None if size is None else b"x" * size) for number, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", 4)
        patch.setattr(module, "_BYTES_AT_ONCE", 50)
        portions = list(module._portions(wanted))
    assert [one for portion in portions for one in portion] == wanted
    for portion in portions:
        assert 1 <= len(portion) <= 4
        assert len(portion) == 1 or sum(len(one.event or b"") for one in portion) <= 50


def test_after_the_deadline_no_more_is_corrected(
    stored: Any, postgres: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answered 503 must not work on for minutes for nobody, and hold the room of others."""
    members = [event(event_time=AT.isoformat()) for _ in range(3)]
    stored(*members)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    clock = iter([1.0, 2.0, 11.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = [Wanted("test", uuid.UUID(one["event_id"])) for one in members]
    with pytest.raises(TimeoutError):
        correct(postgres, steps, corrected_by="me", settings=settings, now=NOW, deadline=10)
    assert [row[0] for row in rows(postgres)] == [members[2]["event_id"]]

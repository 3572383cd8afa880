"""A real trace with random usage over HTTP: shuffled, some twice, some late, from four clients; they and the server are killed.

Then conflicts are decided, events taken out and replaced, and days priced anew with own prices. After each step all tables and
views must equal what pandas and the price package's own calc_price make of the events as they count then.
"""

import csv
import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.access.tokens import create_token
from usage_pipeline.local.traffic.events import trace_calls, usage_events
from usage_pipeline.rollups.calendar import GRAINS, Window, window_at
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import WindowReport, replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.timescale import is_hypertable
from usage_pipeline_tests.api.ingest.service_process import ServiceProcess
from usage_pipeline_tests.end_to_end.rigs.trace_prices import cost_with_own_prices, own_prices, usual_cost
from usage_pipeline_tests.end_to_end.rigs.trace_sending import Events, batches_of, send_all
from usage_pipeline_tests.end_to_end.rigs.trace_usage import other_version, random_event
from usage_pipeline_tests.end_to_end.rigs.usage_frames import TABLES, WINDOW_OF, Table, frame_of, tagged
from usage_pipeline_tests.end_to_end.rigs.usage_tables import assert_tables_equal
from usage_pipeline_tests.rigs.commands import run_command
from usage_pipeline_tests.rigs.events import list_cost
from usage_pipeline_tests.rigs.places import REAL_TRACE

SEED = 20261121
CLIENT_KILLS = 12
TAGS = ["project", "ticket"]
LIVE = [table for table in TABLES if table.name in ("analytics.usage_hourly_live", "reporting.usage_by_hour")]
Identity = tuple[str | None, str]


@pytest.fixture(params=["native", "timescale"])
def stored_in(request: pytest.FixtureRequest, redis_url: str) -> Settings:
    """Settings of an empty database, stored natively or on TimescaleDB."""
    url: str = request.getfixturevalue("database_url" if request.param == "native" else "timescale_url")
    migrate(url, time_zone="Europe/Vienna")
    with psycopg.connect(url) as connection:
        assert is_hypertable(connection, "analytics.usage_events") == (request.param == "timescale")
    return load_settings(
        database_url=url, redis_url=redis_url, usage_timezone="Europe/Vienna", rollup_tags=", ".join(TAGS)
    )


@pytest.fixture
def service(stored_in: Settings, tmp_path: Path) -> Iterator[ServiceProcess]:
    service = ServiceProcess(stored_in, tmp_path / "api.log")
    service.wait_until_it_answers()
    yield service
    service.stop()


class Truth:
    """The events that count, and the days that are priced with own prices."""

    def __init__(self, settings: Settings, google_from: datetime) -> None:
        self.zone = settings.timezone
        self.events: dict[Identity, dict[str, Any]] = {}
        self.own_days: set[date] = set()
        self.google_from = google_from

    def count(self, events: Sequence[dict[str, Any]]) -> None:
        self.events |= {identity(event): event for event in events}

    def cost(self, event: Any) -> Decimal | None:
        def own(event: Any, entered: int, left: int) -> Decimal | None:
            return cost_with_own_prices(event, entered, left, self.google_from)

        day = datetime.fromisoformat(event["event_time"]).astimezone(self.zone).date()
        return list_cost(event, own if day in self.own_days else usual_cost)

    def assert_stored(self, connection: psycopg.Connection, tables: Sequence[Table] = TABLES) -> None:
        frame = frame_of(list(self.events.values()), self.zone, self.cost)
        assert tagged(frame, TAGS)["is_rest"].any(), "some day has more values than stay apart"
        assert_tables_equal(connection, frame, TAGS, tables)


def identity(event: dict[str, Any]) -> Identity:
    return event.get("source"), event["event_id"]


def roll_up_everything(connection: psycopg.Connection, settings: Settings) -> list[WindowReport]:
    """Replaces each touched window, open ones too; days touch weeks and months."""
    reports = []
    for grain in GRAINS:
        starts = connection.execute("select distinct window_start from ops.touched_windows where grain = %s", (grain,))
        for (start,) in starts.fetchall():
            reports.append(replace_window(connection, window_at(grain, start, settings.timezone), settings=settings))
    assert connection.execute("select count(*) from ops.touched_windows").fetchall() == [(0,)]
    return reports


def windows_of(events: Sequence[dict[str, Any]], settings: Settings) -> set[tuple[str, Any]]:
    local = [datetime.fromisoformat(event["event_time"]).astimezone(settings.timezone) for event in events]
    return {(grain, WINDOW_OF[grain](at)) for grain in ("hour", "day") for at in local}


def touched_windows(connection: psycopg.Connection, settings: Settings) -> set[tuple[str, Any]]:
    rows = connection.execute("select grain, window_start from ops.touched_windows").fetchall()
    return {named(window_at(grain, start, settings.timezone)) for grain, start in rows}


def named(window: Window) -> tuple[str, Any]:
    return window.grain, window.start if window.grain == "hour" else window.day


def command(settings: Settings, *arguments: object) -> Any:
    done = run_command(
        settings, *arguments, "--json", USAGE_TIMEZONE=settings.usage_timezone, ROLLUP_TAGS=settings.rollup_tags
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def correct(service: ServiceProcess, token: str, corrections: Sequence[dict[str, Any]]) -> None:
    url = f"{service.url}/api/v1/ingest/corrections:bulk"
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(url, json=list(corrections), headers=headers, timeout=60, trust_env=False).json()
    assert (answer["received"], answer["corrected"]) == (len(corrections), len(corrections)), answer


def decide_conflicts(settings: Settings, sent: Events, accepted: Events) -> None:
    """Accepts those of `sent` that are among `accepted`, and dismisses the others."""
    numbers: dict[str, list[int]] = {"accept": [], "dismiss": []}
    open_ones = command(settings, "conflicts", "list", "--limit", len(sent) + 1)["conflicts"]
    assert len(open_ones) == len(sent)
    wanted = [identity(event) for event in accepted]
    for one in open_ones:
        is_accepted = identity(json.loads(one["other_payload"])) in wanted
        numbers["accept" if is_accepted else "dismiss"].append(one["event_conflict_id"])
    for decision, ids in numbers.items():
        command(settings, "conflicts", decision, *ids, "--reason", "the provider's bill says so")


@pytest.mark.skipif(not REAL_TRACE.exists(), reason="the real trace is not beside this checkout (../shared/data)")
def test_the_tables_equal_an_independent_recomputation_to_the_unit(
    stored_in: Settings, service: ServiceProcess, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    until = datetime.now(UTC) - timedelta(minutes=1)
    calls = trace_calls(REAL_TRACE, until=until, span=timedelta(days=9))
    events = [random_event(event, chance, number) for number, event in enumerate(usage_events(calls, SEED))]
    with REAL_TRACE.open(newline="") as file:
        assert len(events) == sum(1 for _ in csv.reader(file)) - 1
    closed = [event for event in events if datetime.fromisoformat(event["event_time"]) < until - timedelta(days=3)]
    chosen = chance.sample(closed, 360)
    late, last, voided, replaced, accepted, dismissed = (
        chosen[first:end] for first, end in ((0, 40), (40, 80), (80, 140), (140, 240), (240, 300), (300, 360))
    )
    early = [event for event in events if event not in (*late, *last)]
    google_from = datetime.combine((until - timedelta(days=4)).date(), datetime.min.time(), UTC)
    truth = Truth(stored_in, google_from)
    with psycopg.connect(stored_in.database_url.get_secret_value(), autocommit=True) as connection:
        token = create_token(connection, "trace", ["ingest", "correct"]).token

        def send(some: Events, *, duplicates: float = 0, kills: int = 0) -> tuple[int, int]:
            batches = batches_of(some, chance, duplicates=duplicates)
            answered = send_all(batches, service, token, tmp_path, chance, kills=kills)
            assert answered["received"] == sum(map(len, batches))
            return answered["inserted"], answered["conflicts"]

        assert send(early, duplicates=0.1, kills=CLIENT_KILLS)[1] == 0
        truth.count(early)
        stored = "select count(*), count(distinct event_id) from analytics.usage_events"
        assert connection.execute(stored).fetchall() == [(len(early), len(early))]
        roll_up_everything(connection, stored_in)
        truth.assert_stored(connection)

        # Late ones.
        assert send(late, duplicates=0.5) == (len(late), 0)
        truth.count(late)
        truth.assert_stored(connection, LIVE)
        stale = stale_windows(connection, time_zone=stored_in.timezone, now=datetime.now(UTC))
        assert {named(one.window) for one in stale} == windows_of(late, stored_in)
        changed = [report for report in roll_up_everything(connection, stored_in) if report.is_late]
        assert connection.execute("select count(*) from ops.late_data").fetchall() == [(len(changed),)]
        assert len(changed) >= len(stale)

        # Conflicts, of which half are right, and corrections.
        versions = [other_version(event, chance, number) for number, event in enumerate([*accepted, *dismissed])]
        assert send(versions) == (0, len(versions))
        assert touched_windows(connection, stored_in) == set()
        right = versions[: len(accepted)]
        decide_conflicts(stored_in, versions, right)
        news = [other_version(event, chance, number) for number, event in enumerate(replaced)]
        voids = [{"action": "void", "event_id": one["event_id"], "source": one.get("source")} for one in voided]
        replacements = [{"action": "replace", "event": one} for one in news]
        correct(service, token, [{**one, "reason": "a test"} for one in (*voids, *replacements)])
        assert touched_windows(connection, stored_in) == windows_of(
            [*accepted, *right, *replaced, *news, *voided], stored_in
        )
        for event in voided:
            del truth.events[identity(event)]
        truth.count([*right, *news])
        assert send([*voided, *replaced, *accepted, *right, *news]) == (0, 0)
        truth.assert_stored(connection, LIVE)
        roll_up_everything(connection, stored_in)
        truth.assert_stored(connection)

        # Own prices for all days but the first three, then the last ones.
        (file := tmp_path / "prices.csv").write_text(own_prices(google_from))
        assert command(stored_in, "prices", "import", file)["rows"] == 5
        days = sorted(day for (day,) in connection.execute("select distinct usage_date from analytics.usage_daily"))
        command(stored_in, "recost", "--from", days[3], "--to", days[-1])
        assert touched_windows(connection, stored_in) == set()
        truth.own_days = set(days[3:])
        assert send(last) == (len(last), 0)
        truth.count(last)
        truth.assert_stored(connection, LIVE)
        roll_up_everything(connection, stored_in)
        truth.assert_stored(connection)

        noted = connection.execute("select count(*) from ops.late_data").fetchall()
        backfill = [
            replace_window(connection, window_at(grain, start, stored_in.timezone), settings=stored_in)
            for grain, start in connection.execute("select grain, window_start from ops.rolled_windows").fetchall()
        ]
        assert len(backfill) > 100
        assert [report for report in backfill if report.changed_rows] == []
        assert connection.execute("select count(*) from ops.late_data").fetchall() == noted

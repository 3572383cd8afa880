"""A real trace over HTTP: shuffled, some of it twice, some late, from four clients; they and the server are killed at random.

The tables must equal what pandas computes from the events as they were sent.
"""

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.access.tokens import create_token
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.local.traffic.events import trace_calls, usage_events
from usage_pipeline.rollups.calendar import GRAINS, Window, window_at
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.rollups.windows import WindowReport, replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.timescale import is_hypertable
from usage_pipeline_tests.end_to_end.rigs.usage_frames import (
    DIMENSIONS,
    Windows,
    day_of,
    expected_windows,
    hour_of,
    month_of,
    week_of,
)
from usage_pipeline_tests.rigs.places import REAL_TRACE
from usage_pipeline_tests.rigs.waiting import wait_until

CLIENT = Path(__file__).parent / "rigs" / "trace_client.py"
SEED = 20261121
CLIENTS, CLIENT_KILLS, SERVER_KILLS = 4, 12, 3
TIMEOUT_SECONDS = 240
WINDOW_OF = {"hour": hour_of, "day": day_of, "week": week_of, "month": month_of}
Events = list[dict[str, Any]]


@pytest.fixture(params=["native", "timescale"])
def stored_in(request: pytest.FixtureRequest, redis_url: str) -> Settings:
    """Settings of an empty database, stored natively or on TimescaleDB."""
    url: str = request.getfixturevalue("database_url" if request.param == "native" else "timescale_url")
    migrate(url, time_zone="Europe/Vienna")
    with psycopg.connect(url) as connection:
        assert is_hypertable(connection, "analytics.usage_events") == (request.param == "timescale")
    return load_settings(database_url=url, redis_url=redis_url, usage_timezone="Europe/Vienna")


class Service:
    """`usage-pipeline api` on one port, killed and started again."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environment = os.environ | {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_dsn.get_secret_value(),
            "USAGE_TIMEZONE": settings.usage_timezone,
        }
        self._log = log
        self._process = self._start()

    def kill_and_start(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def stop(self) -> None:
        self._process.terminate()
        try:
            assert self._process.wait(60) == 0
        finally:
            self._process.kill()

    def wait_until_it_answers(self) -> None:
        def answers() -> bool:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200:
                    return True
            assert self._process.poll() is None, self._log.read_text()
            return False

        wait_until(answers, "the service answers", poll_seconds=0.05, log=self._log.read_text)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "usage_pipeline.cli", "api", "--port", self.url.rpartition(":")[2]]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)


class Client:
    """A client process with its share of the batches."""

    def __init__(self, number: int, folder: Path, url: str, token: str, batches: Sequence[Events]) -> None:
        self._batches, self.progress = folder / f"{number}.batches", folder / f"{number}.progress"
        self._batches.write_text("".join(json.dumps(batch) + "\n" for batch in batches))
        self.progress.unlink(missing_ok=True)
        self._url = f"{url}/api/v1/ingest/requests:bulk"
        self._environment = os.environ | {"TRACE_CLIENT_TOKEN": token}
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(CLIENT), self._url, str(self._batches), str(self.progress)]
        self.process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> Events:
        return [json.loads(line)[1] for line in self.progress.read_text().splitlines()]


@pytest.fixture
def service(stored_in: Settings, tmp_path: Path) -> Iterator[Service]:
    service = Service(stored_in, tmp_path / "api.log")
    service.wait_until_it_answers()
    yield service
    service.stop()


def oddness(chance: random.Random) -> dict[str, Any]:
    """Members as some clients send them: an empty text for no error, counts of one kind alone, errors without output."""
    kinds: list[dict[str, Any]] = [
        {"error_type": ""},
        {"output_tokens": None},
        {"input_tokens": None},
        {"status_code": 429, "output_tokens": 0},
        {"status_code": 499, "output_tokens": None},
    ]
    return chance.choice(kinds) if chance.random() < 0.1 else {}


def units(event: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """What clients tell of a request beside its tokens: parts of them, searches, a tier, what they were charged."""
    usage: dict[str, int] = {}
    entered, left = event.get("input_tokens"), event.get("output_tokens")
    if entered and chance.random() < 0.5:
        usage["cache_read_tokens"] = chance.randint(0, entered)
        usage["cache_write_tokens"] = chance.randint(0, entered - usage["cache_read_tokens"])
    elif entered and chance.random() < 0.2:
        usage["input_audio_tokens"] = chance.randint(1, entered)
    if left and chance.random() < 0.3:
        usage["output_reasoning_tokens"] = chance.randint(1, left)
    if chance.random() < 0.1:
        usage["web_searches"] = chance.randint(1, 3)
    members: dict[str, Any] = {"usage": {name: count for name, count in usage.items() if count}}
    if chance.random() < 0.05:
        members["service_tier"] = "priority"
    if chance.random() < 0.1:
        members["cost_usd"] = str(Decimal(chance.randint(0, 10**7)).scaleb(-9))
    return members


def batches_of(events: Events, chance: random.Random, duplicates: float) -> list[Events]:
    """The events in random order and batches of 1 to 1,000, some of them twice."""
    sent = [*events, *chance.sample(events, int(len(events) * duplicates))]
    chance.shuffle(sent)
    batches = []
    while sent:
        size = min(chance.randint(1, 1_000), chance.randint(1, 1_000))
        batches.append(sent[:size])
        sent = sent[size:]
    return batches


def send_all(
    batches: Sequence[Events], service: Service, token: str, folder: Path, chance: random.Random, *, kills: int
) -> Counter[str]:
    """Sends from four clients, which are killed so often, and the server now and then; returns what they were answered."""
    clients = [Client(number, folder, service.url, token, batches[number::CLIENTS]) for number in range(CLIENTS)]
    server_kills = SERVER_KILLS if kills else 0
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while any(client.is_running for client in clients):
            assert time.monotonic() < deadline
            with suppress(subprocess.TimeoutExpired):
                chance.choice(clients).process.wait(chance.uniform(0.1, 0.5))
            running = [client for client in clients if client.is_running]
            if kills and running:
                victim = chance.choice(running)
                victim.kill()
                victim.start()
                kills -= 1
            if server_kills and running and chance.random() < 0.3:
                service.kill_and_start()
                server_kills -= 1
    finally:
        for client in clients:
            client.kill()
    for client in clients:
        assert client.process.returncode == 0, client.process.stdout and client.process.stdout.read()
    answers = [answer for client in clients for answer in client.answers()]
    assert len(answers) == len(batches)
    assert [answer["rejected"] for answer in answers if answer["rejected"]] == []
    return Counter({name: sum(answer[name] for answer in answers) for name in ("received", "inserted", "conflicts")})


def roll_up_everything(connection: psycopg.Connection, settings: Settings) -> list[WindowReport]:
    """Replaces each touched window, open ones too; days touch weeks and months."""
    reports = []
    for grain in GRAINS:
        starts = connection.execute("select distinct window_start from ops.touched_windows where grain = %s", (grain,))
        for (start,) in starts.fetchall():
            reports.append(replace_window(connection, window_at(grain, start, settings.timezone), settings=settings))
    assert connection.execute("select count(*) from ops.touched_windows").fetchall() == [(0,)]
    return reports


def assert_equal(connection: psycopg.Connection, events: Events, settings: Settings) -> None:
    for grain in GRAINS:
        expected = expected_windows(events, WINDOW_OF[grain], settings.timezone)
        found = stored_windows(connection, grain, list(next(iter(expected.values()))))
        assert found.keys() == expected.keys()
        for key, columns in expected.items():
            for name, value in columns.items():
                wanted = value
                if name.startswith("latency"):
                    wanted = pytest.approx(value, abs=1e-9)
                elif isinstance(value, Decimal):
                    wanted = pytest.approx(value, abs=Decimal("1e-12"))
                assert found[key][name] == wanted, (grain, key, name)


def stored_windows(connection: psycopg.Connection, grain: Any, columns: list[str]) -> Windows:
    table = WINDOW_TABLES[grain]
    rows = connection.execute(f"select {', '.join([table.column, *DIMENSIONS, *columns])} from {table.table}")
    return {
        tuple(at.astimezone(UTC) if isinstance(at, datetime) else at for at in row[:5]): dict(
            zip(columns, row[5:], strict=True)
        )
        for row in rows
    }


def windows_of(events: Events, settings: Settings) -> set[tuple[str, Any]]:
    local = [datetime.fromisoformat(event["event_time"]).astimezone(settings.timezone) for event in events]
    return {(grain, WINDOW_OF[grain](at)) for grain in ("hour", "day") for at in local}


def named(window: Window) -> tuple[str, Any]:
    return window.grain, window.start if window.grain == "hour" else window.day


@pytest.mark.skipif(not REAL_TRACE.exists(), reason="the real trace is not beside this checkout (../shared/data)")
def test_the_tables_equal_an_independent_recomputation_to_the_unit(
    stored_in: Settings, service: Service, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    until = datetime.now(UTC) - timedelta(minutes=1)
    calls = trace_calls(REAL_TRACE, until=until, span=timedelta(days=9))
    odd = [event | oddness(chance) for event in usage_events(calls, SEED)]
    events = [event | units(event, chance) for event in odd]
    with REAL_TRACE.open(newline="") as file:
        assert len(events) == sum(1 for _ in csv.reader(file)) - 1
    closed = [event for event in events if datetime.fromisoformat(event["event_time"]) < until - timedelta(days=3)]
    late = chance.sample(closed, 40)
    late_ids = {event["event_id"] for event in late}
    early = [event for event in events if event["event_id"] not in late_ids]
    with psycopg.connect(stored_in.database_url.get_secret_value(), autocommit=True) as connection:
        token = create_token(connection, "trace", ["ingest"]).token
        batches = batches_of(early, chance, duplicates=0.1)
        answered = send_all(batches, service, token, tmp_path, chance, kills=CLIENT_KILLS)
        assert answered["received"] == sum(map(len, batches))
        assert answered["conflicts"] == 0
        stored = "select count(*), count(distinct event_id) from analytics.usage_events"
        assert connection.execute(stored).fetchall() == [(len(early), len(early))]
        roll_up_everything(connection, stored_in)
        assert_equal(connection, early, stored_in)

        answered = send_all(batches_of(late, chance, duplicates=0.5), service, token, tmp_path, chance, kills=0)
        assert answered["inserted"] == len(late)
        stale = stale_windows(connection, time_zone=stored_in.timezone, now=datetime.now(UTC))
        assert {named(one.window) for one in stale} == windows_of(late, stored_in)
        late_reports = roll_up_everything(connection, stored_in)
        changed = [report for report in late_reports if report.is_late]
        noted = connection.execute("select count(*) from ops.late_data").fetchall()
        assert noted == [(len(changed),)]
        assert len(changed) >= len(stale)
        assert_equal(connection, events, stored_in)

        backfill = [
            replace_window(connection, window_at(grain, start, stored_in.timezone), settings=stored_in)
            for grain, start in connection.execute("select grain, window_start from ops.rolled_windows").fetchall()
        ]
        assert len(backfill) > 100
        assert [report for report in backfill if report.changed_rows] == []
        assert connection.execute("select count(*) from ops.late_data").fetchall() == noted
        assert_equal(connection, events, stored_in)

"""Events as real clients send them (`../shared/data/odd_events.jsonl`), over HTTP and as a file: each comes out right."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.places import REAL_DATA
from usage_pipeline_tests.rigs.service import EVENTS_PATH, new_token, serving

ODD_EVENTS = REAL_DATA / "odd_events.jsonl"
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
COSTS = {"cost_usd", "list_cost_usd"}
# Providers' objects whose totals contradict the counts that the package reads, or that tell cached tokens under other names.
ODD_OBJECTS = [
    {
        "case": "thoughts in the total only",
        "sent": {
            "provider": "google",
            "model": "gemini-2.5-flash",
            "provider_usage": {"prompt_tokens": 120, "completion_tokens": 300, "total_tokens": 1_320},
        },
        "right": {"total_tokens": 1_320, "output_tokens": 1_200, "cost_usd": "0.003036"},
    },
    {
        "case": "cached tokens of Anthropic beside OpenAI's names",
        "sent": {
            "provider": "anthropic",
            "model": "claude-sonnet-4-5",
            "provider_usage": {
                "prompt_tokens": 129_205,
                "completion_tokens": 500,
                "total_tokens": 129_705,
                "cache_read_input_tokens": 128_000,
                "cache_creation_input_tokens": 1_200,
            },
        },
        "right": {"total_tokens": 129_705, "cost_usd": "0.050415"},
    },
    {
        "case": "a count of cached tokens under a name that nobody knows",
        "sent": {
            "provider": "openai",
            "model": "gpt-4o",
            "provider_usage": {"prompt_tokens": 100, "completion_tokens": 50, "num_cached_tokens": 90},
        },
        "right": {"total_tokens": 150, "unpriced_requests": 1},
    },
    {
        "case": "an answer that is null, and in the total",
        "sent": {
            "provider": "openai",
            "model": "gpt-4o",
            "provider_usage": {"prompt_tokens": 100, "completion_tokens": None, "total_tokens": 150},
        },
        "right": {"total_tokens": 150, "unpriced_requests": 1},
    },
    {
        "case": "an object without counts",
        "sent": {"provider": "openai", "model": "gpt-4o", "provider_usage": {}},
        "right": {"total_tokens": 0, "unpriced_requests": 1},
    },
    {
        "case": "an object whose total is below its counts",
        "sent": {
            "provider": "openai",
            "model": "gpt-4o",
            "provider_usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 149},
        },
        "right": {"stored": False},
    },
]
# Columns of an event that a case may be right about.
STORED = ("total_tokens", "output_tokens", "unattributed_tokens", "external_id")

pytestmark = pytest.mark.skipif(not ODD_EVENTS.exists(), reason="the odd events are not beside this checkout")


@dataclass(frozen=True)
class Case:
    """What is sent, and what is right for it."""

    name: str
    sent: dict[str, Any]
    right: dict[str, Any]

    @property
    def is_stored(self) -> bool:
        return bool(self.right.get("stored", True))


@pytest.fixture
def cases() -> list[Case]:
    """Each in a team of its own, so that it has rows of its own in roll-ups."""
    every = [json.loads(line) for line in ODD_EVENTS.read_text(encoding="utf-8").splitlines()]
    valid = event(event_time=AT.isoformat(), input_tokens=..., output_tokens=...)
    return [
        Case(
            one["case"], valid | {"event_id": event()["event_id"], "team": f"team-{number}"} | one["sent"], one["right"]
        )
        for number, one in enumerate([*every, *ODD_OBJECTS])
    ]


@pytest.fixture
def keeping(settings: Settings) -> Settings:
    """The day of the prices is a past one."""
    return settings.model_copy(update={"retention_days": 3_650})


def document(cases: Sequence[Case]) -> bytes:
    return json.dumps([case.sent for case in cases]).encode()


def test_over_http(cases: list[Case], keeping: Settings, postgres: psycopg.Connection) -> None:
    with serving(keeping) as service:
        client = service.with_token(new_token(postgres))
        headers = {"Content-Type": "application/json"}
        answer = client.post(EVENTS_PATH, content=document(cases), headers=headers).json()
        again = client.post(EVENTS_PATH, content=document(cases), headers=headers).json()
    refused = {cases[one["index"]].name: one["reason"] for one in answer["rejected"]}
    assert set(refused) == {case.name for case in cases if not case.is_stored}, refused
    assert all(refused.values())
    assert (again["duplicates"], again["conflicts"]) == (answer["inserted"], 0)
    assert_stored(cases, postgres)
    assert_rolled_up(cases, postgres, keeping)


@pytest.mark.parametrize("name", ["odd.json", "odd.ndjson"])
def test_through_the_landing_folder(
    name: str, cases: list[Case], keeping: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    lines = "\n".join(json.dumps(case.sent) for case in cases).encode()
    (tmp_path / name).write_bytes(lines + b"\n" if name == "odd.ndjson" else document(cases))
    report = ingest_file(postgres, Landing(str(tmp_path)), name, settings=keeping)
    assert report.outcome == "stored"
    refused = dict(postgres.execute("select position, reason from ops.dead_letters").fetchall())
    # Lines are counted from 1, items of an array from 0.
    first = 1 if name == "odd.ndjson" else 0
    assert {cases[position - first].name for position in refused} == {case.name for case in cases if not case.is_stored}
    assert all(refused.values())
    assert_stored(cases, postgres)
    assert_rolled_up(cases, postgres, keeping)


def assert_stored(cases: Sequence[Case], postgres: psycopg.Connection) -> None:
    for case in cases:
        named = [name for name in STORED if name in case.right]
        rows = postgres.execute(
            f"select {', '.join(['user_id', *named])} from analytics.usage_events where team = %s", (case.sent["team"],)
        ).fetchall()
        right = [(case.sent["user_id"], *(case.right[name] for name in named))]
        assert rows == (right if case.is_stored else []), case.name


def assert_rolled_up(cases: Sequence[Case], postgres: psycopg.Connection, settings: Settings) -> None:
    zone, day = settings.timezone, AT.date()
    windows = [
        calendar.hour_window(AT, zone),
        calendar.day_window(day, zone),
        calendar.week_window(calendar.week_of(day), zone),
        calendar.month_window(date(day.year, day.month, 1), zone),
    ]
    for window in windows:
        replace_window(postgres, window, settings=settings)
        table = WINDOW_TABLES[window.grain].table
        for case in cases:
            named = sorted(({"errors", "total_tokens", "unpriced_requests"} | COSTS) & case.right.keys())
            columns = ", ".join(["requests", *named])
            rows = postgres.execute(f"select {columns} from {table} where team = %s", (case.sent["team"],)).fetchall()
            right = [Decimal(case.right[name]) if name in COSTS else case.right[name] for name in named]
            assert rows == ([(1, *right)] if case.is_stored else []), (window, case.name)

"""One person has one pseudonym, and who is asked for under another spelling is not erased in silence."""

import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.rollups.calendar import Grain, Window, hour_window, week_of, window_on
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load
from usage_pipeline_tests.rigs.windows import event_at, store_events, window_rows

NOW = datetime.now(UTC)
# Tuesday and Thursday of the first whole week of the month before.
FIRST_OF_MONTH = (NOW.replace(day=1, hour=12, minute=10, second=0, microsecond=0) - timedelta(days=1)).replace(day=1)
TUESDAY = FIRST_OF_MONTH + timedelta(days=7 - FIRST_OF_MONTH.weekday() + 1)
THURSDAY = TUESDAY + timedelta(days=2)
SECRET = SecretStr("0123456789abcdef" * 2)


@pytest.fixture
def with_secret(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"erasure_secret": SECRET, "archive_url": str(tmp_path / "archive")})


def roll_up_stale(postgres: psycopg.Connection, settings: Settings) -> None:
    """What the sensor of late windows asks for, until it asks for nothing."""
    arguments: dict[str, Any] = {"now": NOW, "timezone": settings.usage_timezone, "most": 1_000}
    while stale := postgres.execute(load("rollups/select_stale_windows"), arguments).fetchall():
        for grain, start, _ in stale:
            replace_window(postgres, _window(grain, start, settings), settings=settings)


def _window(grain: Grain, start: datetime, settings: Settings) -> Window:
    zone = settings.timezone
    return hour_window(start, zone) if grain == "hour" else window_on(grain, start.astimezone(zone).date(), zone)


def users(postgres: psycopg.Connection, settings: Settings) -> dict[str, list[tuple[int, int]]]:
    """Requests and distinct users of the hour, day, week and month of that Tuesday."""
    starts = {
        "hour": TUESDAY.replace(minute=0),
        "day": TUESDAY,
        "week": datetime.combine(week_of(TUESDAY.date()), TUESDAY.timetz()),
        "month": FIRST_OF_MONTH,
    }
    return {
        grain: window_rows(postgres, _window(grain, at, settings), "requests, distinct_users")  # type: ignore[arg-type]
        for grain, at in starts.items()
    }


@pytest.mark.parametrize("archived", [False, True])
def test_a_person_who_comes_back_and_is_erased_again_is_one_person(
    archived: bool, postgres: psycopg.Connection, with_secret: Settings
) -> None:
    def send(*moments: datetime) -> None:
        store_events(postgres, with_secret, NOW, *(event_at(at, user_id="nora") for at in moments))
        roll_up_stale(postgres, with_secret)

    send(TUESDAY)
    first = erase(with_secret, "nora")
    roll_up_stale(postgres, with_secret)
    send(TUESDAY + timedelta(minutes=5), THURSDAY)
    assert users(postgres, with_secret) == {"hour": [(2, 2)], "day": [(2, 2)], "week": [(3, 2)], "month": [(3, 2)]}
    if archived:
        run_lifecycle(with_secret)
        assert postgres.execute("select count(*) from analytics.usage_events").fetchall() == [(0,)]

    second = erase(with_secret, "nora")
    if archived:
        run_lifecycle(with_secret)
    roll_up_stale(postgres, with_secret)

    assert second.pseudonym == first.pseudonym
    assert second.is_found
    assert users(postgres, with_secret) == {"hour": [(2, 1)], "day": [(2, 1)], "week": [(3, 1)], "month": [(3, 1)]}
    days = "select user_id, requests, total_tokens, cost_usd::text from analytics.usage_user_daily order by requests"
    assert postgres.execute(days).fetchall() == [
        (first.pseudonym, 1, 2_500, "0.01"),
        (first.pseudonym, 2, 5_000, "0.02"),
    ]
    assert postgres.execute("select count(*) from ops.erasures where finished_at is not null").fetchall() == [(2,)]


def test_an_erasure_that_is_repeated_finds_the_earlier_one(postgres: psycopg.Connection, with_secret: Settings) -> None:
    store_events(postgres, with_secret, NOW, event_at(NOW - timedelta(hours=1), user_id="nora"))
    first = erase(with_secret, "nora")
    again = erase(with_secret, "nora")
    assert (again.pseudonym, again.counts, again.was_erased_before, again.is_found) == (first.pseudonym, {}, True, True)
    assert not erase(with_secret, "norah").is_found
    assert not erase(with_secret, "norah").is_found, "an erasure of nobody is no erasure"


def test_a_pseudonym_tells_nothing_without_the_secret(settings: Settings, postgres: psycopg.Connection) -> None:
    names = {erase(settings.model_copy(update={"erasure_secret": secret}), "nora").pseudonym for secret in (None,) * 2}
    others = {
        erase(settings.model_copy(update={"erasure_secret": SecretStr(text * 32)}), "nora").pseudonym for text in "ab"
    }
    assert len(names | others) == 4


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("Ana@x.org", "ana@x.org"),
        (unicodedata.normalize("NFD", "josé"), "josé"),
        ("josé", unicodedata.normalize("NFD", "josé")),
        ("Straße", "STRASSE"),
        ("nora ", "nora"),
    ],
)
def test_another_spelling_is_named_and_nothing_is_erased(
    stored: str, asked: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, event_at(NOW - timedelta(hours=1), user_id=stored))
    done = erase(settings, asked)
    assert (done.is_found, done.counts, done.near_spellings) == (False, {}, [stored])
    assert postgres.execute("select user_id from analytics.usage_events").fetchall() == [(stored,)]
    assert erase(settings, done.near_spellings[0]).counts == {"analytics.usage_events": 1}

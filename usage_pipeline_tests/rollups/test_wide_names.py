"""What ingest accepts can be stored in every table after it: all names at their limits at once, in the widest characters."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.rankings import RANKINGS, replace_ranking
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.archives.store import ArchiveStore
from usage_pipeline_tests.rigs.windows import event_at, store_events, window_rows

ZONE = Settings().timezone
NOW = datetime.now(UTC)
AT = datetime(NOW.year, NOW.month, NOW.day, 10, 30, tzinfo=UTC) - timedelta(days=40)
WINDOWS = [
    calendar.hour_window(AT.replace(minute=0), ZONE),
    calendar.day_window(AT.date(), ZONE),
    calendar.week_window(calendar.week_of(AT.date()), ZONE),
    calendar.month_window(calendar.month_of(AT.date()), ZONE),
]
NAMES = ("team", "service", "provider", "model", "user_id")
# PostgreSQL compresses long texts that repeat, so a name of one character many times would fit by luck.
LETTERS = {
    "of one byte": (0x21, 0x7E),
    "of two bytes": (0x400, 0x4FF),
    "of three bytes": (0x4E00, 0x9FA5),
    "of four bytes": (0x20000, 0x2A6D0),
}


def names_at_the_limit(first: int, last: int, seed: int) -> dict[str, str]:
    chance = random.Random(seed)
    return {name: "".join(chr(chance.randint(first, last)) for _ in range(200)) for name in (*NAMES, "error_type")}


def roll_up(postgres: psycopg.Connection, settings: Settings) -> None:
    for window in WINDOWS:
        replace_window(postgres, window, settings=settings, now=NOW)


@pytest.mark.parametrize("letters", LETTERS.values(), ids=LETTERS)
def test_an_event_of_the_widest_names_is_rolled_up_and_so_are_all_others(
    letters: tuple[int, int], settings: Settings, postgres: psycopg.Connection
) -> None:
    wide = names_at_the_limit(*letters, seed=1)
    store_events(postgres, settings, NOW, event_at(AT, **wide), event_at(AT), event_at(AT, user_id=wide["user_id"]))
    columns = "team, service, provider, model, requests, errors, distinct_users, latency_p50_ms"
    expected = [
        (*(wide[name] for name in NAMES[:4]), 1, 1, 1, 350.0),
        ("search", "chat", "openai", "gpt-4o", 2, 0, 2, 350.0),
    ]
    for window in WINDOWS:
        assert replace_window(postgres, window, settings=settings, now=NOW).changed_rows == 2
        assert replace_window(postgres, window, settings=settings, now=NOW).changed_rows == 0
        assert sorted(window_rows(postgres, window, columns)) == sorted(expected)
    users = postgres.execute(
        "select user_id, sum(requests)::int from reporting.usage_by_user group by 1 order by 2"
    ).fetchall()
    assert users == [("user-1", 1), (wide["user_id"], 2)]
    for ranking in RANKINGS:
        replace_ranking(postgres, ranking, AT.date(), settings=settings)
    [(models,)] = postgres.execute("select count(*) from stats.popular_models").fetchall()
    assert models == 2


def test_rows_of_the_widest_names_change_and_leave_like_others(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    wide = names_at_the_limit(*LETTERS["of four bytes"], seed=2)
    store_events(postgres, settings, NOW, event_at(AT, **wide), event_at(AT))
    roll_up(postgres, settings)
    store_events(postgres, settings, NOW, event_at(AT, **wide, latency_ms=450))
    roll_up(postgres, settings)
    for window in WINDOWS:
        rows = window_rows(postgres, window, "requests, latency_p50_ms")
        assert sorted(rows) == [(1, 350.0), (2, 400.0)]
    postgres.execute("delete from analytics.usage_events where team = %s", (wide["team"],))
    roll_up(postgres, settings)
    for window in WINDOWS:
        assert window_rows(postgres, window, "requests") == [(1,)]


def test_names_that_only_end_elsewhere_are_groups_of_their_own(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    cuts: list[dict[str, Any]] = [
        {"team": "a", "service": "bc"},
        {"team": "ab", "service": "c"},
        {"team": "1:a", "service": "b"},
        {"team": "1", "service": ":ab"},
        {"team": "a\\", "service": "b"},
        {"team": "a", "service": "\\b"},
        {"team": "a\\\\", "service": "b"},
        {"team": "é", "service": "b"},
        {"team": "e\u0301", "service": "b"},
    ]
    store_events(postgres, settings, NOW, *(event_at(AT, **cut) for cut in cuts))
    for window in WINDOWS:
        assert replace_window(postgres, window, settings=settings, now=NOW).rows == len(cuts)
    assert postgres.execute("select count(*) from analytics.usage_user_daily").fetchone() == (len(cuts),)


def test_a_day_of_the_widest_names_is_archived_and_read_back(
    settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    archiving = settings.model_copy(update={"archive_url": str(tmp_path / "archive")})
    store_events(postgres, archiving, NOW, event_at(AT, **names_at_the_limit(*LETTERS["of four bytes"], seed=3)))
    roll_up(postgres, archiving)
    before = postgres.execute("select t::text from analytics.usage_events as t").fetchall()
    assert [one.rows for one in run_lifecycle(archiving).archived] == [1]
    [packed] = archives(postgres)
    restore(postgres, ArchiveStore(str(archiving.archive_url)), packed, interval_hours=24)
    assert postgres.execute("select t::text from analytics.usage_events as t").fetchall() == before


_NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200) | st.integers(
    0, 2**32
).map(lambda seed: names_at_the_limit(*random.Random(seed).choice([*LETTERS.values()]), seed=seed)["team"])


@tried(max_examples=15)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, _NAME)), min_size=1, max_size=4))
def test_whatever_names_are_accepted_can_be_rolled_up(
    settings: Settings, postgres: psycopg.Connection, named: list[dict[str, str]]
) -> None:
    postgres.execute("truncate analytics.usage_events, analytics.usage_event_ids cascade")
    store_events(postgres, settings, NOW, *(event_at(AT, **names) for names in named))
    groups = {tuple(names[name] for name in NAMES[:4]) for names in named}
    for window in WINDOWS:
        report = replace_window(postgres, window, settings=settings, now=NOW)
        assert (report.rows, report.sums["requests"]) == (len(groups), len(named))

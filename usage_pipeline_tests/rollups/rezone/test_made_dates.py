"""Dates of rankings that were made, after a change of time zone: none is to come, and empty ones are made again, too."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from usage_pipeline.rollups.rankings import RANKINGS, read_ranking, replace_rankings
from usage_pipeline.rollups.rezone.run import rezone
from usage_pipeline.settings import load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import connect

[ISSUES] = [one for one in RANKINGS if one.table == "stats.popular_issues"]
FAR_AHEAD, FAR_BEHIND = "Pacific/Kiritimati", "Pacific/Pago_Pago"


def store_issue(postgres: psycopg.Connection, at: datetime) -> None:
    postgres.execute(
        "insert into app.issues (id, title, status, created_at, updated_at) values ('1', 'One', 'OPEN', %(at)s, %(at)s)",
        {"at": at},
    )


@pytest.mark.parametrize("is_empty", [False, True])
def test_the_newest_ranking_is_of_a_day_that_has_begun(
    database_url: str, redis_url: str, postgres: psycopg.Connection, is_empty: bool
) -> None:
    before, after = (
        load_settings(database_url=database_url, redis_url=redis_url, usage_timezone=zone)
        for zone in (FAR_AHEAD, FAR_BEHIND)
    )
    migrate(database_url, time_zone=FAR_AHEAD)
    now = datetime.now(UTC)
    if not is_empty:
        store_issue(postgres, now - timedelta(days=3))
    days = [now.astimezone(ZoneInfo(FAR_AHEAD)).date() - timedelta(days=ago) for ago in range(3)]
    with closing(connect(before)) as connection:
        replace_rankings(connection, ISSUES, days, settings=before)
    with closing(connect(after, any_time_zone=True)) as connection:
        rezone(connection, after)
        today = now.astimezone(ZoneInfo(FAR_BEHIND)).date()
        made = "select max(date) from ops.made_dates where table_name = 'stats.popular_issues'"
        assert connection.execute(made).fetchone() == (today,)
        served = [(entry["rankingDate"], entry["id"]) for entry in read_ranking(connection, ISSUES)]
        assert served == ([] if is_empty else [(str(today), "1")])


def test_a_ranking_that_was_empty_is_made_again(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    before, after = (
        load_settings(database_url=database_url, redis_url=redis_url, usage_timezone=zone)
        for zone in ("UTC", "Asia/Shanghai")
    )
    migrate(database_url, time_zone="UTC")
    at = datetime(2026, 5, 4, 23, 30, tzinfo=UTC)
    store_issue(postgres, at)
    # Of seven days: those from the 5th on in UTC, which the issue precedes, and in Shanghai, where it is of the 5th.
    day = at.date() + timedelta(days=7)
    with closing(connect(before)) as connection:
        replace_rankings(connection, ISSUES, [day], settings=before)
        assert read_ranking(connection, ISSUES, day) == []
    with closing(connect(after, any_time_zone=True)) as connection:
        rezone(connection, after)
        assert [entry["id"] for entry in read_ranking(connection, ISSUES, day)] == ["1"]

"""What is popular now is the newest ranking that was made, also when it is empty; and old rankings follow late data."""

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.rollups.ranking_cache import publish_current
from usage_pipeline.rollups.rankings import RANKINGS, Ranking, read_ranking, replace_ranking
from usage_pipeline.rollups.stale.dates import stale_dates
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today

BY_NAME = {ranking.name: ranking for ranking in RANKINGS}
OLD = date(2019, 3, 20)


def used(postgres: psycopg.Connection, day: date, *, requests: int = 1, service: str = "s") -> None:
    """One row of each table that a ranking is made from."""
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    name = f"{day}-{service}"
    postgres.execute("insert into app.issues (id, title, status, created_at) values (%s, 't', 'OPEN', %s)", (name, at))
    postgres.execute("insert into usage.api_key_daily values (%s, %s, %s, 0, 0, 0, 0, null)", (day, service, requests))
    postgres.execute(
        "insert into analytics.usage_daily (usage_date, team, service, provider, model, requests, total_tokens, errors,"
        " input_tokens, output_tokens, distinct_users, unpriced_requests)"
        " values (%s, 't', %s, 'p', 'm', %s, 1, 0, 0, 0, 0, 0)",
        (day, service, requests),
    )


def current(postgres: psycopg.Connection) -> dict[str, date]:
    return dict(postgres.execute("select distinct ranking, ranking_date from reporting.current_rankings").fetchall())


@pytest.mark.parametrize("ranking", RANKINGS, ids=lambda ranking: ranking.name)
def test_seven_days_without_anything_are_an_empty_ranking_and_not_the_one_of_years_ago(
    ranking: Ranking, settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    used(postgres, OLD)
    replace_ranking(postgres, ranking, OLD, settings=settings)
    assert [entry["rankingDate"] for entry in read_ranking(postgres, ranking)] == [str(OLD)]
    replace_ranking(postgres, ranking, today(), settings=settings)
    assert publish_current(postgres, ranking, [today()], settings=settings) is None
    assert read_ranking(postgres, ranking) == []
    assert redis_client.get(ranking.cache_key) == b"[]"
    assert ranking.name not in current(postgres)
    # The old one is still there for whoever asks for its date.
    assert len(read_ranking(postgres, ranking, OLD)) == 1


@pytest.mark.parametrize("ranking", RANKINGS, ids=lambda ranking: ranking.name)
def test_a_backfill_of_old_dates_leaves_cache_and_current_ranking_alone(
    ranking: Ranking, settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    used(postgres, OLD)
    # Also when no ranking of today was made yet.
    replace_ranking(postgres, ranking, OLD, settings=settings)
    assert publish_current(postgres, ranking, [OLD], settings=settings) is None
    assert not redis_client.exists(ranking.cache_key)
    used(postgres, today())
    for day in (today(), OLD):
        replace_ranking(postgres, ranking, day, settings=settings)
        assert publish_current(postgres, ranking, [day], settings=settings) is None
    assert str(today()).encode() in (redis_client.get(ranking.cache_key) or b"")
    assert current(postgres)[ranking.name] == today()


@pytest.mark.parametrize("ranking", RANKINGS, ids=lambda ranking: ranking.name)
def test_a_late_change_makes_the_seven_rankings_stale_that_it_belongs_to_and_no_other(
    ranking: Ranking, settings: Settings, postgres: psycopg.Connection
) -> None:
    changed = days_ago(20)
    for offset in range(-2, 9):
        replace_ranking(postgres, ranking, changed + timedelta(days=offset), settings=settings)
    assert stale(postgres, ranking) == []
    used(postgres, changed)
    assert stale(postgres, ranking) == [changed + timedelta(days=offset) for offset in range(7)]
    for offset in range(7):
        replace_ranking(postgres, ranking, changed + timedelta(days=offset), settings=settings)
    assert stale(postgres, ranking) == []


def test_a_count_that_changes_or_goes_is_late_too_and_what_no_ranking_shows_is_not(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    models, keys = BY_NAME["models"], BY_NAME["api_keys"]
    day = days_ago(10)
    used(postgres, day)
    for ranking in (models, keys):
        replace_ranking(postgres, ranking, day, settings=settings)
    # Another price, or a user that was erased.
    postgres.execute("update analytics.usage_daily set cost_usd = 1, distinct_users = 7")
    postgres.execute("update usage.api_key_daily set last_used_at = now()")
    assert stale(postgres, models) == stale(postgres, keys) == []
    postgres.execute("update analytics.usage_daily set requests = 2")
    postgres.execute("update usage.api_key_daily set total_requests = 2")
    assert stale(postgres, models) == stale(postgres, keys) == [day]
    for ranking in (models, keys):
        replace_ranking(postgres, ranking, day, settings=settings)
    postgres.execute("delete from analytics.usage_daily")
    postgres.execute("delete from usage.api_key_daily")
    assert stale(postgres, models) == stale(postgres, keys) == [day]


def test_views_titles_and_comments_of_today_make_no_old_ranking_stale_and_late_comments_do(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    issues, day = BY_NAME["issues"], days_ago(10)
    used(postgres, day)
    for offset in range(7):
        replace_ranking(postgres, issues, day + timedelta(days=offset), settings=settings)
    postgres.execute("update app.issues set view_count = 7, title = 'other', status = 'CLOSED'")
    postgres.execute("insert into app.comments (id, issue_id) select 'now', id from app.issues")
    assert stale(postgres, issues) == []
    postgres.execute(
        "insert into app.comments (id, issue_id, created_at) select 'late', id, %s from app.issues",
        (datetime.now(UTC) - timedelta(days=7),),
    )
    assert stale(postgres, issues) == [day + timedelta(days=offset) for offset in range(3, 7)]


def test_what_commits_while_a_ranking_is_made_leaves_it_stale(
    settings: Settings, postgres: psycopg.Connection, database_url: str
) -> None:
    issues, day = BY_NAME["issues"], days_ago(10)
    with psycopg.connect(database_url) as other:
        used(other, day)
        replace_ranking(postgres, issues, day, settings=settings)
        other.commit()
    assert stale(postgres, issues) == [day]


def stale(postgres: psycopg.Connection, ranking: Ranking) -> list[date]:
    return [one.date for one in stale_dates(postgres, today=today()) if one.table == ranking.table]

"""Rankings: who takes part, in which order, and what a re-run touches; and their copy in Redis."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
import redis
from psycopg import errors, sql

from usage_pipeline.rollups.ranking_cache import CACHE_SECONDS, publish_current
from usage_pipeline.rollups.rankings import (
    RANKINGS,
    Ranking,
    RankingReport,
    read_ranking,
    replace_ranking,
    replace_rankings,
)
from usage_pipeline.settings import Settings

BY_NAME = {ranking.name: ranking for ranking in RANKINGS}
ISSUES = BY_NAME["issues"]
DAY = date(2025, 3, 30)
NOON = datetime(2025, 3, 30, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def add_issue(
    postgres: psycopg.Connection,
    issue: str,
    at: datetime = NOON,
    *,
    views: int = 0,
    comments: list[datetime] | None = None,
) -> None:
    postgres.execute(
        "insert into app.issues (id, title, status, view_count, created_at) values (%s, %s, 'OPEN', %s, %s)",
        (issue, f"About {issue}", views, at),
    )
    for number, moment in enumerate(comments or []):
        postgres.execute(
            "insert into app.comments (id, issue_id, created_at) values (%s, %s, %s)",
            (f"{issue}-c{number}", issue, moment),
        )


def add_usage(postgres: psycopg.Connection, day: date, **columns: Any) -> None:
    row = {
        "usage_date": day,
        "team": "t",
        "service": "s",
        "provider": "p",
        "model": "m",
        "requests": 1,
        "total_tokens": 1,
        **columns,
    }
    names = sql.SQL(", ").join(map(sql.Identifier, row))
    query = sql.SQL(
        "insert into analytics.usage_daily ({}, errors, input_tokens, output_tokens, distinct_users, unpriced_requests) "
        "values ({}, 0, 0, 0, 0, 0)"
    )
    postgres.execute(query.format(names, sql.SQL(", ").join(map(sql.Placeholder, row))), row)


def ids(postgres: psycopg.Connection, ranking: Ranking = ISSUES, day: date = DAY) -> list[object]:
    return [entry["id"] for entry in read_ranking(postgres, ranking, day)]


def versions(postgres: psycopg.Connection, ranking: Ranking = ISSUES) -> list[tuple[Any, ...]]:
    """What tells a row that was written anew from one that was left alone."""
    query = sql.SQL("select ranking_date, rank, xmin::text from {} order by 1, 2")
    return postgres.execute(query.format(sql.Identifier(*ranking.table.split(".")))).fetchall()


def test_the_best_ten_by_views_and_comments_with_the_parts_of_their_score(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    for number in range(12):
        comments = [NOON + timedelta(minutes=minute) for minute in range(number % 3)]
        add_issue(postgres, f"i{number:02}", views=number * 10, comments=comments)
    assert replace_ranking(postgres, ISSUES, DAY, settings=settings) == RankingReport(ISSUES, DAY, 10, 10)
    entries = read_ranking(postgres, ISSUES)
    assert [entry["rank"] for entry in entries] == list(range(1, 11))
    assert [entry["id"] for entry in entries] == [f"i{number:02}" for number in range(11, 1, -1)]
    assert entries[0] == {
        "rankingDate": "2025-03-30",
        "rank": 1,
        "id": "i11",
        "title": "About i11",
        "score": 112,
        "viewCount": 110,
        "commentCount": 2,
        "createdAt": "2025-03-30T12:00:00Z",
    }


def test_a_title_without_end_does_not_make_an_answer_without_end(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    add_issue(postgres, "i", views=1)
    postgres.execute("update app.issues set title = repeat('ä', 1000000)")
    replace_ranking(postgres, ISSUES, DAY, settings=settings)
    [entry] = read_ranking(postgres, ISSUES)
    assert entry["title"] == f"{'ä' * 299}…"


def test_equal_scores_are_ordered_by_newer_then_by_id_as_bytes(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    add_issue(postgres, "b", NOON)
    add_issue(postgres, "B", NOON)
    add_issue(postgres, "a", NOON)
    add_issue(postgres, "z", NOON + MICROSECOND)
    add_issue(postgres, "scored", NOON - timedelta(days=3), views=1)
    replace_ranking(postgres, ISSUES, DAY, settings=settings)
    assert ids(postgres) == ["scored", "z", "B", "a", "b"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna", "America/Havana"])
def test_issues_count_from_the_first_moment_of_seven_days_to_before_the_end_of_the_last(
    zone: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    # On this day clocks go forward in Vienna: its midnights are 23:00 and 22:00 UTC.
    first, end = {
        "UTC": (datetime(2025, 3, 24, tzinfo=UTC), datetime(2025, 3, 31, tzinfo=UTC)),
        "Europe/Vienna": (datetime(2025, 3, 23, 23, tzinfo=UTC), datetime(2025, 3, 30, 22, tzinfo=UTC)),
        "America/Havana": (datetime(2025, 3, 24, 4, tzinfo=UTC), datetime(2025, 3, 31, 4, tzinfo=UTC)),
    }[zone]
    for name, at in {"before": first - MICROSECOND, "first": first, "last": end - MICROSECOND, "after": end}.items():
        add_issue(postgres, name, at)
    replace_ranking(postgres, ISSUES, DAY, settings=settings.model_copy(update={"usage_timezone": zone}))
    assert ids(postgres) == ["last", "first"]


def test_comments_count_until_the_end_of_the_ranking_date(settings: Settings, postgres: psycopg.Connection) -> None:
    end = datetime(2025, 3, 31, tzinfo=UTC)
    add_issue(postgres, "a", comments=[end - MICROSECOND, end, end + timedelta(days=40)])
    replace_rankings(postgres, ISSUES, [DAY, DAY + timedelta(days=1)], settings=settings)
    scores = [read_ranking(postgres, ISSUES, DAY + timedelta(days=ago))[0]["score"] for ago in (0, 1)]
    assert scores == [1, 2]


def test_a_rerun_touches_no_row_and_a_change_only_those_that_it_moves(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    for number in range(4):
        add_issue(postgres, f"i{number}", views=10 - number)
    replace_ranking(postgres, ISSUES, DAY, settings=settings)
    before = versions(postgres)
    assert replace_ranking(postgres, ISSUES, DAY, settings=settings).changed_rows == 0
    assert versions(postgres) == before
    # The second and the third change places, the last one goes.
    postgres.execute("update app.issues set view_count = 9 where id = 'i2'")
    postgres.execute("update app.issues set view_count = 8 where id = 'i1'")
    postgres.execute("delete from app.issues where id = 'i3'")
    assert replace_ranking(postgres, ISSUES, DAY, settings=settings) == RankingReport(ISSUES, DAY, 3, 3)
    assert ids(postgres) == ["i0", "i2", "i1"]
    assert versions(postgres)[0] == before[0]


def test_dates_without_candidates_have_no_rows_and_the_newest_date_that_was_made_is_read(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    assert read_ranking(postgres, ISSUES) == []
    add_issue(postgres, "a")
    days = [DAY + timedelta(days=offset) for offset in range(-2, 9)]
    reports = replace_rankings(postgres, ISSUES, days, settings=settings)
    assert [report.rows for report in reports] == [0, 0, *[1] * 7, 0, 0]
    assert [report.ranking_date for report in reports] == days
    assert read_ranking(postgres, ISSUES, days[8])[0]["rankingDate"] == "2025-04-05"
    assert read_ranking(postgres, ISSUES) == []
    assert read_ranking(postgres, ISSUES, days[0]) == []


def test_models_and_services_are_ranked_by_requests_and_by_tokens_of_the_seven_days(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    add_usage(postgres, DAY, model="gpt", service="chat", requests=5, total_tokens=10)
    add_usage(postgres, DAY - timedelta(days=6), model="gpt", service="search", requests=2, total_tokens=10)
    add_usage(postgres, DAY, model="mini", service="chat", requests=6, total_tokens=500)
    add_usage(postgres, DAY - timedelta(days=7), model="old", service="old", requests=900, total_tokens=900)
    add_usage(postgres, DAY + timedelta(days=1), model="next", service="next", requests=900, total_tokens=900)
    for ranking in RANKINGS:
        replace_ranking(postgres, ranking, DAY, settings=settings)
    found = {ranking.name: [(e["id"], e["score"]) for e in read_ranking(postgres, ranking)] for ranking in RANKINGS}
    assert found == {
        "issues": [],
        "models": [("p/gpt", 7), ("p/mini", 6)],
        "models_by_tokens": [("p/mini", 500), ("p/gpt", 20)],
        "services": [("chat", 11), ("search", 2)],
        "services_by_tokens": [("chat", 510), ("search", 10)],
        "api_keys": [],
    }
    assert read_ranking(postgres, BY_NAME["models"])[0] == {
        "rankingDate": "2025-03-30",
        "rank": 1,
        "id": "p/gpt",
        "title": "gpt",
        "score": 7,
        "requests": 7,
        "totalTokens": 20,
    }


def test_models_of_different_providers_never_share_an_id_and_sums_beyond_bigint_are_its_greatest(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    most = 2**63 - 1
    for provider, model in (("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c")):
        add_usage(postgres, DAY, provider=provider, model=model, total_tokens=most)
        add_usage(postgres, DAY - timedelta(days=1), provider=provider, model=model, total_tokens=most)
    replace_ranking(postgres, BY_NAME["models_by_tokens"], DAY, settings=settings)
    entries = read_ranking(postgres, BY_NAME["models_by_tokens"])
    assert [(entry["id"], entry["title"], entry["score"]) for entry in entries] == [
        ("a%252Fb/c", "c", most),
        ("a%2Fb/c", "c", most),
        ("a/b/c", "b/c", most),
    ]
    add_issue(postgres, "i", views=most, comments=[NOON])
    replace_ranking(postgres, ISSUES, DAY, settings=settings)
    assert read_ranking(postgres, ISSUES)[0]["score"] == most


def test_api_keys_are_ranked_by_requests(settings: Settings, postgres: psycopg.Connection) -> None:
    for key, day, requests in (("b", DAY, 3), ("a", DAY, 2), ("a", DAY - timedelta(days=6), 1), ("c", DAY, 4)):
        postgres.execute("insert into usage.api_key_daily values (%s, %s, %s, 0, 1, 7, 0, null)", (day, key, requests))
    replace_ranking(postgres, BY_NAME["api_keys"], DAY, settings=settings)
    entries = read_ranking(postgres, BY_NAME["api_keys"])
    assert [(entry["id"], entry["score"]) for entry in entries] == [("c", 4), ("a", 3), ("b", 3)]
    assert list(entries[1].items())[5:] == [("totalRequests", 3), ("failedRequests", 2), ("totalFileSize", 14)]


def test_a_ranking_is_replaced_by_one_transaction_at_a_time(
    settings: Settings, postgres: psycopg.Connection, database_url: str
) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("select pg_advisory_xact_lock(hashtext('ranking'), hashtext('stats.popular_issues'))")
        postgres.execute("set lock_timeout = '50ms'")
        with pytest.raises(errors.LockNotAvailable):
            replace_ranking(postgres, ISSUES, DAY, settings=settings)
        assert replace_ranking(postgres, BY_NAME["models"], DAY, settings=settings).rows == 0


@pytest.mark.parametrize("ranking", RANKINGS, ids=lambda ranking: ranking.name)
def test_the_lineage_names_columns_that_there_are(ranking: Ranking, postgres: psycopg.Connection) -> None:
    def columns(table: str) -> set[str]:
        query = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
        return {name for (name,) in postgres.execute(query, (table,))}

    assert set(ranking.lineage) == columns(ranking.table) - {"ranking_date", "rank"}
    for source in (source for sources in ranking.lineage.values() for source in sources):
        table, _, column = source.rpartition(".")
        assert column in columns(table)


def test_the_ranking_of_the_current_day_is_published_for_five_minutes(
    settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    add_issue(postgres, "a", views=1)
    replace_rankings(postgres, ISSUES, [DAY, DAY + timedelta(days=1)], settings=settings)
    next_noon = NOON + timedelta(days=1)
    assert publish_current(postgres, ISSUES, [DAY], settings=settings, now=next_noon) is None
    assert not redis_client.exists("popular:issues")
    assert publish_current(postgres, ISSUES, [DAY + timedelta(days=1)], settings=settings, now=next_noon) is None
    assert msgspec.json.decode(redis_client.get("popular:issues") or b"") == read_ranking(postgres, ISSUES)
    assert 0 < redis_client.ttl("popular:issues") <= CACHE_SECONDS


def test_the_current_day_is_the_one_of_the_time_zone(
    settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    east = settings.model_copy(update={"usage_timezone": "Pacific/Kiritimati"})
    assert publish_current(postgres, ISSUES, [DAY], settings=east, now=NOON) is None
    assert not redis_client.exists("popular:issues")
    assert publish_current(postgres, ISSUES, [DAY + timedelta(days=1)], settings=east, now=NOON) is None
    assert redis_client.get("popular:issues") == b"[]"


def test_without_redis_the_answer_is_why(settings: Settings, postgres: psycopg.Connection) -> None:
    away = settings.model_copy(update={"redis_url": type(settings.redis_dsn)("redis://:hunter2@127.0.0.1:1")})
    problem = publish_current(postgres, ISSUES, [DAY], settings=away, now=NOON)
    assert problem is not None
    assert "127.0.0.1:1" in problem
    assert "hunter2" not in problem

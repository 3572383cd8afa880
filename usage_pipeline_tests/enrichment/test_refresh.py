"""Posts in the table: fallbacks as such, successes that stay; and the run that fetches a list of them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from usage_pipeline.enrichment.posts import FALLBACK_BODY, FALLBACK_TITLE, Post, fallback
from usage_pipeline.enrichment.refresh import (
    BUDGET_SECONDS,
    REQUESTS_AT_ONCE,
    AlreadyRefreshing,
    RefreshReport,
    refresh_posts,
)
from usage_pipeline.enrichment.store import StoredPosts, store_posts
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable
from usage_pipeline_tests.rigs.external_api import ExternalApi, external_api, post, status

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
GOOD = Post(1, 3, "Title", "Text")
LATER = AT + timedelta(hours=1)


@pytest.fixture
def api() -> Iterator[ExternalApi]:
    with external_api() as api:
        yield api


async def no_sleep(seconds: float) -> None:
    """Retries follow at once."""


def rows(postgres: psycopg.Connection) -> list[tuple[object, ...]]:
    return postgres.execute(
        "select id, user_id, title, fetched_at, is_fallback from app.external_posts order by length(id), id"
    ).fetchall()


def test_a_success_replaces_a_fallback_and_a_fallback_no_success(postgres: psycopg.Connection) -> None:
    assert store_posts(postgres, [fallback(1)], fetched_at=AT) == StoredPosts(0, 1, 0)
    assert rows(postgres) == [("1", None, FALLBACK_TITLE, AT, True)]
    assert store_posts(postgres, [GOOD], fetched_at=LATER) == StoredPosts(1, 0, 0)
    assert rows(postgres) == [("1", "3", "Title", LATER, False)]
    much_later = LATER + timedelta(hours=1)
    assert store_posts(postgres, [fallback(1), fallback(2)], fetched_at=much_later) == StoredPosts(0, 2, 1)
    assert rows(postgres) == [("1", "3", "Title", LATER, False), ("2", None, FALLBACK_TITLE, much_later, True)]


def test_a_success_that_was_fetched_earlier_replaces_no_later_one_but_any_fallback(
    postgres: psycopg.Connection,
) -> None:
    store_posts(postgres, [GOOD, fallback(2)], fetched_at=LATER)
    assert store_posts(postgres, [Post(1, 3, "Old", ""), Post(2, "u", "Old", "")], fetched_at=AT).fetched == 2
    assert rows(postgres) == [("1", "3", "Title", LATER, False), ("2", "u", "Old", AT, False)]


def test_storing_the_same_again_and_nothing_at_all_changes_nothing(postgres: psycopg.Connection) -> None:
    store_posts(postgres, [GOOD], fetched_at=AT)
    store_posts(postgres, [GOOD], fetched_at=AT)
    assert store_posts(postgres, [], fetched_at=AT) == StoredPosts(0, 0, 0)
    assert rows(postgres) == [("1", "3", "Title", AT, False)]


def test_a_run_fetches_each_configured_post_once_and_a_few_at_a_time(
    api: ExternalApi, settings: Settings, postgres: psycopg.Connection
) -> None:
    report = refresh_posts(api.settings(settings, external_post_ids="5,1-20,40"))
    assert sorted(api.asked) == [*range(1, 21), 40]
    assert 1 <= api.most_in_hand <= REQUESTS_AT_ONCE
    assert (report.wanted, report.fetched, report.fallbacks, report.kept, report.not_tried) == (21, 21, 0, 0, 0)
    assert report.missing_share == 0
    assert [row[0] for row in rows(postgres)] == [str(number) for number in (*range(1, 21), 40)]
    assert not any(row[-1] for row in rows(postgres))


def test_posts_become_fallbacks_recover_and_stay_while_the_api_is_away(
    api: ExternalApi, settings: Settings, postgres: psycopg.Connection
) -> None:
    ours = api.settings(settings, external_post_ids="1-4")

    def only_two(api: ExternalApi, connection: object, post_id: int) -> None:
        (post if post_id <= 2 else status(500))(api, connection, post_id)  # type: ignore[arg-type]

    def counts(report: RefreshReport) -> tuple[int, int, int, float]:
        return report.fetched, report.fallbacks, report.kept, report.missing_share

    api.otherwise = only_two
    assert counts(refresh_posts(ours, sleep=no_sleep)) == (2, 2, 0, 0.5)
    assert [row[-1] for row in rows(postgres)] == [False, False, True, True]
    api.otherwise = post
    assert counts(refresh_posts(ours, sleep=no_sleep)) == (4, 0, 0, 0.0)
    stored = rows(postgres)
    assert not any(row[-1] for row in stored)
    api.otherwise = status(503)
    assert counts(refresh_posts(ours, sleep=no_sleep)) == (0, 4, 4, 1.0)
    assert rows(postgres) == stored
    # Two posts three times in the first run, all four three times in the last.
    assert len(api.requests) == (2 + 2 * 3) + 4 + 4 * 3


def test_a_run_has_a_budget_and_what_had_no_turn_keeps_what_is_stored(
    api: ExternalApi, settings: Settings, postgres: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    store_posts(postgres, [Post(9, 1, "Title", "")], fetched_at=AT)
    api.otherwise = status(404)
    report = refresh_posts(api.settings(settings, external_post_ids="1-9"), timer=seconds_per_look(BUDGET_SECONDS / 3))
    assert 0 < report.not_tried < 9
    assert len(api.requests) == report.fallbacks == 9 - report.not_tried
    assert report.missing_share == 1.0
    assert rows(postgres)[-1] == ("9", "1", "Title", AT, False)
    assert f"{report.not_tried} of 9 were not tried, because 240 s had passed" in caplog.text


def test_a_run_beside_another_that_does_not_end_gives_up_and_asks_for_nothing(
    api: ExternalApi, settings: Settings, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.enrichment.refresh.WAIT_SECONDS", 0.1)
    postgres.execute("select pg_advisory_lock(hashtext('external_posts'), 0)")
    with pytest.raises(AlreadyRefreshing):
        refresh_posts(api.settings(settings))
    assert api.requests == []
    postgres.execute("select pg_advisory_unlock(hashtext('external_posts'), 0)")
    assert refresh_posts(api.settings(settings, external_post_ids="1")).fetched == 1
    assert refresh_posts(api.settings(settings, external_post_ids="1")).fetched == 1


def test_two_runs_at_once_ask_one_after_the_other(api: ExternalApi, settings: Settings) -> None:
    ours = api.settings(settings, external_post_ids="1-12")
    with ThreadPoolExecutor(2) as runs:
        reports = [one.result(60) for one in [runs.submit(refresh_posts, ours) for _ in range(2)]]
    assert [report.fetched for report in reports] == [12, 12]
    assert sorted(api.asked[:12]) == sorted(api.asked[12:]) == list(range(1, 13))
    assert api.most_in_hand <= REQUESTS_AT_ONCE


def test_without_a_database_nothing_is_asked_for(api: ExternalApi, settings: Settings) -> None:
    away = settings.model_copy(
        update={"database_url": type(settings.database_url)("postgresql://postgres@127.0.0.1:1/none")}
    )
    with pytest.raises(PostgresUnavailable):
        refresh_posts(api.settings(away))
    assert api.requests == []


def test_the_fallback_is_that_of_the_contract(postgres: psycopg.Connection) -> None:
    store_posts(postgres, [fallback(1)], fetched_at=AT)
    stored = postgres.execute("select title, body from app.external_posts").fetchone()
    assert stored == (FALLBACK_TITLE, FALLBACK_BODY)
    assert stored == ("Fallback: Post Unavailable", "External API is currently unavailable")


def seconds_per_look(step: float) -> Callable[[], float]:
    now = 0.0

    def timer() -> float:
        nonlocal now
        now += step
        return now

    return timer

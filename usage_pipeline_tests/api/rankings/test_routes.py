"""Rankings and issue statistics over HTTP: what a hit costs, what a stampede costs, and what happens without Redis."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.rankings import reads as ranking_reads
from usage_pipeline.api.rankings.reads import RankingReads
from usage_pipeline.api.storing import Storing
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.redis_keys import ranking_filler
from usage_pipeline.rollups.ranking_cache import cached_text, publish_ranking
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.quick_redis import QuickRedis
from usage_pipeline_tests.rigs.service import Service, Shared, expect_problem, new_token, serving

ISSUES = next(ranking for ranking in RANKINGS if ranking.name == "issues")
DAY = date(2026, 11, 20)
ENTRY = {"rankingDate": "2026-11-20", "rank": 1, "id": "7", "title": "One", "score": 5}


@pytest.fixture(scope="module", autouse=True)
def _issues(shared: Shared) -> None:
    for rank in (2, 1):
        shared.postgres.execute(
            "insert into stats.popular_issues values (%s, %s, %s, %s, %s, 3, 2, %s)",
            (DAY, rank, f"i{rank}", f"Issue {rank}", 9 - rank, datetime(2026, 11, 18, tzinfo=UTC)),
        )
    for age in range(40):
        shared.postgres.execute(
            "insert into stats.daily_issue_stats (date, created_count, resolved_count, comment_count) values (%s, %s, 1, 2)",
            (datetime.now(UTC).date() - timedelta(days=age), age),
        )


@pytest.fixture(autouse=True)
def _cold(shared: Shared) -> None:
    for key in shared.redis.scan_iter("*popular:*"):
        shared.redis.delete(key)


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rankings that the database was asked for; each such query takes a moment."""
    asked: list[str] = []
    whole = ranking_reads.read_ranking

    def counting(connection: psycopg.Connection, ranking: Any) -> Any:
        asked.append(ranking.name)
        time.sleep(0.1)  # so that a stampede meets it under way
        return whole(connection, ranking)

    monkeypatch.setattr(ranking_reads, "read_ranking", counting)
    return asked


def test_a_miss_is_from_the_database_and_then_it_is_a_hit_without_a_query(shared: Shared, queries: list[str]) -> None:
    first = shared.client.get("/api/issues/popular")
    assert first.headers["x-cache"] == "miss"
    assert [(one["rank"], one["id"], one["score"], one["viewCount"], one["commentCount"]) for one in first.json()] == [
        (1, "i1", 8, 3, 2),
        (2, "i2", 7, 3, 2),
    ]
    assert 290 < shared.redis.ttl("popular:issues") <= 300
    second = shared.client.get("/api/issues/popular")
    assert second.headers["x-cache"] == "hit"
    assert second.content == first.content
    assert queries == ["issues"]


def test_a_hit_needs_no_database_at_all(
    service: Service, postgres: psycopg.Connection, servers: LocalServers, settings: Settings
) -> None:
    client = service.with_token(new_token(postgres, "read"))
    for _ in range(2):  # the first asks for the key of copies, the second for tokens that were revoked
        assert client.get("/api/issues/popular").status_code == 200
    name = conninfo_to_dict(settings.database_url.get_secret_value())["dbname"]
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(str(name))))
    response = client.get("/api/issues/popular")  # the token is in the cache, too
    assert (response.status_code, response.headers["x-cache"]) == (200, "hit")
    expect_problem(client.get("/api/rankings/models"), 503, "unavailable")


def test_what_a_materialization_published_is_served_as_it_is(shared: Shared, queries: list[str]) -> None:
    publish_ranking(shared.redis, ISSUES, [ENTRY])
    response = shared.client.get("/api/issues/popular")
    assert (response.headers["x-cache"], response.content) == ("hit", cached_text([ENTRY]))
    assert queries == []


def test_a_hundred_misses_at_once_are_one_query(shared: Shared, queries: list[str]) -> None:
    with ThreadPoolExecutor(100) as many:
        answers = list(many.map(lambda _: shared.client.get("/api/issues/popular"), range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert queries == ["issues"]
    assert not shared.redis.exists(ranking_filler("popular:issues"))


def test_misses_of_two_processes_are_one_query(shared: Shared, queries: list[str]) -> None:
    # Two services with nothing in common but Redis and the database.
    with serving(shared.settings) as other:
        client = other.with_token(shared.token)
        client.get("/")
        with ThreadPoolExecutor(20) as many:
            asked = [many.submit(one.get, "/api/issues/popular") for one in (client, shared.client) * 10]
            answers = [future.result() for future in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert queries == ["issues"]


def test_who_waits_for_a_process_that_died_reads_for_itself(
    shared: Shared, queries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_reads, "LOCK_SECONDS", 0.2)
    shared.redis.set(ranking_filler("popular:issues"), "somebody else", px=60_000)
    assert shared.client.get("/api/issues/popular").headers["x-cache"] == "miss"
    assert queries == ["issues"]
    assert shared.redis.get(ranking_filler("popular:issues")) == b"somebody else", "the lock of another is left alone"


@pytest.mark.parametrize(
    "foreign",
    [b"", b"null", b"{}", b"[1]", b"[{}]", b"\xff", b"[" * 100_000, b'[{"rank":1}', cached_text([ENTRY] * 11)],
    ids=range(9),
)
def test_a_malformed_value_is_a_miss_and_is_replaced(shared: Shared, foreign: bytes) -> None:
    shared.redis.set("popular:issues", foreign)
    response = shared.client.get("/api/issues/popular")
    assert (response.headers["x-cache"], len(response.json())) == ("miss", 2)
    assert shared.redis.get("popular:issues") == response.content


def test_a_value_of_another_type_is_a_miss(shared: Shared) -> None:
    shared.redis.hset("popular:issues", "a", "b")
    assert shared.client.get("/api/issues/popular").headers["x-cache"] == "miss"


@pytest.mark.parametrize("name", [ranking.name for ranking in RANKINGS])
def test_every_ranking_is_served_and_an_empty_one_is_cached_too(shared: Shared, queries: list[str], name: str) -> None:
    outcomes = [shared.client.get(f"/api/rankings/{name}") for _ in range(2)]
    assert [outcome.headers["x-cache"] for outcome in outcomes] == ["miss", "hit"]
    assert queries == [name]
    if name != "issues":
        assert [outcome.json() for outcome in outcomes] == [[], []]


def test_an_unknown_ranking_is_404_and_parameters_are_refused(shared: Shared) -> None:
    assert "one of issues, models" in expect_problem(shared.client.get("/api/rankings/nobody"), 404, "not-found")
    expect_problem(shared.client.get("/api/issues/popular?limit=5"), 422, "invalid-parameter")


def test_without_redis_it_comes_from_the_database(shared: Shared, queries: list[str]) -> None:
    url = shared.settings.database_url.get_secret_value()
    with serving(load_settings(database_url=url, redis_url="redis://127.0.0.1:1")) as service:
        client = service.with_token(shared.token)
        for _ in range(2):
            response = client.get("/api/issues/popular")
            assert (response.headers["x-cache"], len(response.json())) == ("miss", 2)
    assert queries == ["issues", "issues"]


def test_a_newer_ranking_that_comes_meanwhile_is_not_overwritten(shared: Shared) -> None:
    newer = [{**ENTRY, "rankingDate": "2026-11-21"}]

    async def ask() -> bytes:
        cache, storing = QuickRedis.of(shared.settings), Storing(shared.settings)

        def slow(_: Any) -> list[dict[str, object]]:
            publish_ranking(shared.redis, ISSUES, newer)
            return [ENTRY]

        with closing(storing):
            reads = RankingReads(cache, storing, Metrics(), slow)
            answer = await reads.get(ISSUES)
            await reads.close()
            await cache.close()
        return answer.text

    assert asyncio.run(ask()) == cached_text([ENTRY])
    assert shared.redis.get("popular:issues") == cached_text(newer)


def test_a_query_that_fails_fails_for_all_who_wait_and_not_for_the_next(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.Event()

    def failing(*_: Any) -> Any:
        started.set()
        time.sleep(0.1)
        raise psycopg.OperationalError("the server closed the connection")

    with monkeypatch.context() as patched, ThreadPoolExecutor(5) as many:
        patched.setattr(ranking_reads, "read_ranking", failing)
        answers = list(many.map(lambda _: shared.client.get("/api/issues/popular"), range(5)))
    assert started.is_set()
    assert {answer.status_code for answer in answers} == {503}
    assert shared.client.get("/api/issues/popular").status_code == 200


@pytest.fixture
def mute() -> Iterator[Settings]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and never says a word
        yield load_settings(redis_url=f"redis://127.0.0.1:{listening.getsockname()[1]}")


def test_a_mute_redis_is_logged_once_and_soon_not_asked_any_more(
    mute: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usage_recorder import outage as record_outage

    from usage_pipeline.storage import quick_redis

    monkeypatch.setattr(quick_redis, "TIMEOUT_SECONDS", 0.02)
    monkeypatch.setattr(record_outage, "SECONDS_OF_AN_OUTAGE", 0.1)
    monkeypatch.setattr(record_outage, "PROBE_SECONDS", 60.0)
    questions: list[int] = []

    async def ask() -> None:
        cache = QuickRedis.of(mute)

        async def question(client: redis.asyncio.Redis) -> Any:
            questions.append(1)
            return await client.get("x")

        for _ in range(200):
            assert await cache.ask(question) is False
        await cache.close()

    asyncio.run(ask())
    assert 10 <= len(questions) < 100
    assert len([record for record in caplog.records if "Redis does not answer" in record.message]) == 1


def test_statistics_are_ascending_with_both_ends_and_the_names_that_clients_read(shared: Shared) -> None:
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=age) for age in range(39, -1, -1)]
    found = shared.client.get(f"/api/stats/daily?from={days[2]}&to={days[5]}").json()
    assert [one["date"] for one in found] == [str(day) for day in days[2:6]]
    assert [one["createdCount"] for one in found] == [37, 36, 35, 34]
    assert {tuple(one) for one in found} == {
        ("id", "date", "createdCount", "resolvedCount", "commentCount", "createdAt")
    }
    assert isinstance(found[0]["id"], int)
    assert datetime.fromisoformat(found[0]["createdAt"]).tzinfo
    assert len(shared.client.get("/api/stats/daily").json()) == 30
    assert json.loads(shared.client.get("/api/stats/daily?from=2001-01-01&to=2001-01-01").text) == []


@pytest.mark.parametrize(
    "query", ["from=2026-02-02&to=2026-02-01", "from=x", "to=2020-01-01&from=2018-01-01", "date=2026-01-01"]
)
def test_wrong_ranges_of_statistics_are_told(shared: Shared, query: str) -> None:
    assert "expected" in expect_problem(shared.client.get(f"/api/stats/daily?{query}"), 422, "invalid-parameter")

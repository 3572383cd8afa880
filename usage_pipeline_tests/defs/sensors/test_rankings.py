"""The sensor of rankings: today's are made, and published, inside its ticks."""

import json
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis

from usage_pipeline.rollups.ranking_cache import CACHE_SECONDS
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline_tests.rigs.clock import today


def tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Any:
    """A tick as the daemon evaluates it."""
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    return definitions.resolve_sensor_def("current_rankings").evaluate_tick(context)


def add_issue(postgres: psycopg.Connection, issue: str) -> None:
    postgres.execute("insert into app.issues (id, title, status, created_at) values (%s, 't', 'OPEN', now())", (issue,))


def ranked(postgres: psycopg.Connection) -> list[tuple[int, str]]:
    rows = postgres.execute(
        "select rank, id from stats.popular_issues where ranking_date = %s order by rank", (today(),)
    )
    return [(rank, issue) for rank, issue in rows]


def test_a_tick_ranks_today_and_publishes_it_without_a_run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    add_issue(postgres, "one")
    found = tick(definitions, instance)
    assert not found.run_requests
    assert found.skip_message == f"Ranked today in {len(RANKINGS)} rankings."
    assert ranked(postgres) == [(1, "one")]
    assert [entry["id"] for entry in json.loads(redis_client.get("popular:issues") or b"")] == ["one"]
    assert {ranking.cache_key for ranking in RANKINGS} <= {key.decode() for key in redis_client.keys("popular:*")}
    assert 0 < redis_client.ttl("popular:issues") <= CACHE_SECONDS
    add_issue(postgres, "two")
    tick(definitions, instance)
    assert {issue for _, issue in ranked(postgres)} == {"one", "two"}


def test_a_ranking_that_fails_keeps_no_other_from_being_made_and_the_tick_is_red(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    first, last = RANKINGS[0], RANKINGS[-1]
    postgres.execute(f"alter table {first.table} rename column score to another")
    with pytest.raises(Exception, match="score") as raised:
        tick(definitions, instance)
    assert isinstance(raised.value.__cause__ or raised.value, psycopg.errors.UndefinedColumn)
    assert redis_client.exists(last.cache_key)
    assert not redis_client.exists(first.cache_key)


def test_without_redis_it_ranks_all_the_same_and_says_so(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    add_issue(postgres, "one")
    redis_client.config_set("maxmemory", 1)
    try:
        found = tick(definitions, instance)
    finally:
        redis_client.config_set("maxmemory", 0)
    assert "readers get them from PostgreSQL" in found.skip_message
    assert ranked(postgres) == [(1, "one")]

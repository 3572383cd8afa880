"""The comparison of the demo: it is about what the demo wrote, and it sees what is lost and what is counted twice."""

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis
from usage_recorder.recorder import Recorder

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.local.demo.comparison import Ours, compare
from usage_pipeline.local.traffic.counters import Request, Written, write, write_malformed
from usage_pipeline.local.traffic.issues import made_up_issues, store_issues
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.issue_stats import replace_issue_stats
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.events import as_items, event

MARK = "1795271558"
NOW = datetime.now(UTC)


def request(mark: str) -> Request:
    return Request(
        api_key_id=f"key-01{mark}",
        user_id=f"user-01{mark}",
        provider="s3",
        token_id=f"token-1{mark}",
        instance_id="api-0:8080",
        merchant_id=f"merchant-3{mark}",
        file_size=10,
        is_success=True,
        at_ms=int(NOW.timestamp() * 1000),
    )


def write_one_of_each(settings: Settings, connection: psycopg.Connection, written: Written, mark: str) -> None:
    with closing(Recorder.connect(settings.redis_dsn.get_secret_value(), timeout_seconds=5)) as recorder:
        write(recorder, iter([request(mark)]), written, settings.timezone)
    for at in (NOW, NOW - timedelta(days=3)):
        sent = event(event_time=at.isoformat(), user_id=f"user-01{mark}")
        assert ingest(connection, EVENTS, as_items(sent), source="test", settings=settings).inserted == 1
        counts = {"requests": 1, "errors": 0, "input_tokens": 100, "output_tokens": 20}
        for family in ("usage_event", "usage_daily"):
            written.counts.update(
                {(family, "search/chat/openai/gpt-4o", name): value for name, value in counts.items()}
            )
    seed = int(mark.strip("-") or 0)
    issues = made_up_issues(seed, 20, until=day_window(today(), settings.timezone).first, days=5)
    written.counts.update(store_issues(connection, issues))


@pytest.fixture
def written(settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis) -> Written:
    """What the demo wrote, all of it stored and rolled up. Others wrote before, and after: that is not rolled up."""
    written, others = Written(), Written()
    write_one_of_each(settings, postgres, others, "")
    write_one_of_each(settings, postgres, written, f"-{MARK}")
    write_malformed(redis_client, written, mark=MARK)
    redis_client.hset("apikey:broken-writer:metrics", "total_requests", "none")
    written.malformed["usage_event"] = 1
    drain_once(settings)
    aggregate(settings, [today()])
    for ago in (0, 3):
        replace_window(postgres, day_window(days_ago(ago), settings.timezone), settings=settings)
    replace_issue_stats(postgres, days_ago(6), days_ago(1), settings=settings)
    write_one_of_each(settings, postgres, others, "-5")
    drain_once(settings)
    return written


def differences(connection: psycopg.Connection, written: Written, settings: Settings) -> dict[str, int]:
    ours = Ours(MARK, "no token", (days_ago(6), days_ago(1)))
    results = compare(connection, ours, written, 1, settings)
    for one in results:
        assert one.stored > 0
        if not one.difference:
            assert one.written == one.stored + one.refused
    return {one.family: one.difference for one in results if one.difference}


def test_what_others_wrote_is_no_difference(settings: Settings, postgres: psycopg.Connection, written: Written) -> None:
    assert differences(postgres, written, settings) == {}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("update usage.api_keys set total_requests = total_requests + 1 where total_requests > 0", {"api_key": 1}),
        ("update usage.provider_usage set total_file_size = 0", {"provider": 10}),
        ("update usage.merchant_usage set metric_value = 3", {"merchant": 2}),
        ("update analytics.usage_daily set requests = requests + 4", {"usage_daily": 8}),
        ("delete from ops.dead_letters where family = 'token'", {"token": 1}),
    ],
)
def test_what_is_lost_or_counted_twice_is_a_difference(
    settings: Settings, postgres: psycopg.Connection, written: Written, statement: str, expected: dict[str, int]
) -> None:
    postgres.execute(statement)  # type: ignore[call-overload]  # a constant of this test
    assert differences(postgres, written, settings) == expected


def test_an_issue_that_was_not_written_is_a_difference(
    settings: Settings, postgres: psycopg.Connection, written: Written
) -> None:
    written.counts += Counter({("issue", "all", "resolved_count"): 1})
    assert differences(postgres, written, settings) == {"issue": 1}

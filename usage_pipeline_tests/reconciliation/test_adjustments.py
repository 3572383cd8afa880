"""Counters are put up and down by name; totals, days, checks, the aggregation and the reconciliation agree afterwards."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis
from usage_recorder.keys import merchant_counter
from usage_recorder.recorder import Recorder

from usage_pipeline.checks.counters import COUNTER_TABLES, day_sum_faults, negative_faults, total_faults
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.reconciliation.adjustments import Adjusted, Adjustment, Family, adjust
from usage_pipeline.reconciliation.balance import DayBalance
from usage_pipeline.reconciliation.comparison import reconcile
from usage_pipeline.rollups.daily import DAILY_TABLES, replace_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.manifest import raw_span
from usage_pipeline.values import Malformed
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.commands import Run

DELTAS: list[tuple[Family, str, str | None, str]] = [
    ("api_key", "a", None, "total_requests"),
    ("provider", "a", "s3", "upload_count"),
    ("token", "t", None, "usage_count"),
]


@pytest.fixture
def recorder(redis_url: str) -> Iterator[Recorder]:
    recorder = Recorder.connect(redis_url, timeout_seconds=5)
    yield recorder
    recorder.close()


@pytest.fixture
def drained(settings: Settings, recorder: Recorder) -> None:
    """Ten of each, today."""
    assert recorder.record_api_key("a", requests=10)
    assert recorder.record_provider("a", "s3", user_id="u", uploads=10)
    assert recorder.record_token("t", "host:1", count=10)
    assert recorder.record_merchant("shop", "orders", value=10)
    drain_once(settings)
    aggregate(settings, [today()])


def balances(settings: Settings) -> dict[str, DayBalance]:
    report = reconcile(settings, sleep=lambda _: None)
    return {row.family: row for row in report.rows if row.usage_date == today()}


def made(postgres: psycopg.Connection, settings: Settings, asked: Adjustment) -> Adjusted:
    return adjust(postgres, asked, reason="refund", corrected_by="me", settings=settings)


def merchant_row(postgres: psycopg.Connection) -> tuple[int, int]:
    [row] = postgres.execute("select metric_value, metric_value - reset_offset from usage.merchant_usage").fetchall()
    return row


@pytest.mark.parametrize(("family", "counter_id", "provider", "field"), DELTAS)
def test_a_counter_goes_down_and_up_with_its_day_and_its_total(
    family: Family,
    counter_id: str,
    provider: str | None,
    field: str,
    drained: None,
    settings: Settings,
    postgres: psycopg.Connection,
) -> None:
    tables = COUNTER_TABLES[family]
    for amount, after in ((-7, 3), (5, 8), (-8, 0)):
        found = made(postgres, settings, Adjustment(family, counter_id, field, amount, today(), provider))
        assert (found.before, found.after, found.total) == (after - amount, after, after)
        assert total_faults(postgres, family) == []
        replace_day(postgres, tables.daily, today(), today=today())
        query = f"select {field} from {tables.daily.table} where usage_date = %s"
        assert postgres.execute(query, (today(),)).fetchall() == [(after,)]
        assert total_faults(postgres, family) == []
        assert day_sum_faults(postgres, family, today(), today()) == []
        row = balances(settings)[family]
        assert (row.difference, row.missing, row.counted_twice) == (0, 0, 0)
    with pytest.raises(Malformed, match="0"):
        made(postgres, settings, Adjustment(family, counter_id, field, -1, today(), provider))
    name = " ".join(filter(None, (counter_id, provider)))
    assert postgres.execute(
        "select reason, subject, before, after from ops.corrections order by 1 limit 1"
    ).fetchall() == [("refund", f"{family} {name} {field} {today()}", {"value": 10}, {"value": 3})]
    assert postgres.execute("select count(*) from ops.corrections").fetchall() == [(3,)]


def test_a_merchant_s_day_goes_down_and_up_and_the_counter_goes_on_beside_it(
    drained: None, settings: Settings, postgres: psycopg.Connection, redis_client: redis.Redis, recorder: Recorder
) -> None:
    asked = Adjustment("merchant", "shop", "orders", -4, today())
    assert made(postgres, settings, asked).after == 6
    aggregate(settings, [today()])
    assert merchant_row(postgres) == (6, 10)
    assert balances(settings)["merchant"].difference == 0
    assert recorder.record_merchant("shop", "orders", value=3)
    aggregate(settings, [today()])
    assert merchant_row(postgres) == (9, 13)
    assert made(postgres, settings, Adjustment("merchant", "shop", "orders", 20, today())).after == 29
    aggregate(settings, [today()])
    assert merchant_row(postgres) == (29, 13)
    row = balances(settings)["merchant"]
    assert (row.difference, row.missing, row.counted_twice) == (0, 0, 0)
    assert postgres.execute("select count(*) from ops.counter_regressions").fetchall() == [(0,)]
    assert negative_faults(postgres, "usage.merchant_usage", "date", today(), today()) == []
    with pytest.raises(Malformed, match="0 to"):
        made(postgres, settings, Adjustment("merchant", "shop", "orders", -30, today()))
    # The largest counter beside what was taken off.
    made(postgres, settings, Adjustment("merchant", "shop", "orders", -29, today()))
    redis_client.set(merchant_counter("shop", today(), "orders"), 2**63 - 1)
    aggregate(settings, [today()])
    assert merchant_row(postgres) == (2**63 - 1 - 13, 2**63 - 1)


def test_what_somebody_adds_makes_up_for_a_loss_and_hides_no_other(
    drained: None, settings: Settings, postgres: psycopg.Connection, recorder: Recorder, redis_client: redis.Redis
) -> None:
    yesterday = int((datetime.now(UTC) - timedelta(days=1)).timestamp() * 1000)
    for at_ms in (None, yesterday):
        assert recorder.record_api_key("lost", requests=5, at_ms=at_ms)
        redis_client.delete("apikey:lost:metrics")
    made(postgres, settings, Adjustment("api_key", "a", "total_requests", 8, today()))
    report = reconcile(settings, sleep=lambda _: None)
    found = {row.usage_date: row for row in report.rows if row.family == "api_key"}
    assert (found[today()].difference, found[today()].corrected) == (0, -3)
    assert found[days_ago(1)].missing == 5


def test_what_cannot_be_adjusted_is_refused_and_changes_nothing(
    drained: None, settings: Settings, postgres: psycopg.Connection
) -> None:
    postgres.execute(
        "insert into ops.archives (table_name, chunk_start, chunk_end, address, rows, bytes, checksum) "
        "values ('raw.api_key_deltas', %s, %s, 'x', 1, 1, 'x')",
        raw_span(days_ago(3)),
    )
    postgres.execute(
        "insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept) "
        "values ('raw.api_key_deltas', %s, %s, 'test', true)",
        raw_span(days_ago(4)),
    )
    good = Adjustment("api_key", "a", "total_requests", 1, today())
    for asked, said in (
        (Adjustment("api_key", "b", "total_requests", 1, today()), "expected a counter that is stored, came b"),
        (Adjustment("api_key", "a", "requests", 1, today()), "--field"),
        (Adjustment("api_key", "a", "total_requests", 0, today()), "--by"),
        (Adjustment("api_key", "a", "total_requests", 2**63 - 1, today()), "--by: expected a total"),
        (Adjustment("api_key", "a", "total_requests", -1, days_ago(1)), "came -1: it has 0 now"),
        (Adjustment("api_key", "a", "total_requests", 1, days_ago(-1)), "--day"),
        (Adjustment("api_key", "a", "total_requests", 1, days_ago(3)), f"archive restore {days_ago(3)}"),
        (Adjustment("api_key", "a", "total_requests", 1, days_ago(4)), "were dropped"),
        (Adjustment("api_key", "a", "total_requests", 1, days_ago(1000)), "--day"),
        (Adjustment("api_key", "a", "total_requests", 1, today(), "s3"), "--provider"),
        (Adjustment("provider", "a", "upload_count", 1, today()), "--provider"),
        (Adjustment("merchant", "shop", "order", 1, today()), "expected a merchant with that metric"),
    ):
        with pytest.raises(Malformed) as refused:
            made(postgres, settings, asked)
        assert said in str(refused.value)
    with pytest.raises(Malformed, match="reason"):
        adjust(postgres, good, reason=" ", corrected_by="me", settings=settings)
    assert postgres.execute("select count(*) from ops.corrections").fetchall() == [(0,)]
    assert [total_faults(postgres, daily.family) for daily in DAILY_TABLES] == [[], [], []]


def test_the_command_says_what_it_did_or_why_not(drained: None, run: Run, postgres: psycopg.Connection) -> None:
    common = ("--day", today(), "--reason", "counted twice")
    done = run("counters", "adjust", "api_key", "a", "--field", "total_requests", "--by", "-4", *common, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["before"], told["after"], told["total"]) == (0, 10, 6, 6)
    up = run(
        "counters", "adjust", "provider", "a", "--provider", "s3", "--field", "upload_count", "--by", "+2", *common
    )
    assert (up.returncode, "10 before, 12 now" in up.stdout) == (0, True)
    for arguments in (
        ("merchant", "shop", "--field", "orders", "--by", "4.5", *common),
        ("merchants", "shop", "--field", "orders", "--by", "4", *common),
        ("merchant", "shop", "--field", "orders", "--by", "-11", *common),
        ("merchant", "shop", "--field", "orders", "--by", "1", "--day", today()),
    ):
        refused = run("counters", "adjust", *arguments)
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False), arguments
    assert postgres.execute("select count(*) from ops.counter_adjustments").fetchall() == [(2,)]

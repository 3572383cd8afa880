"""Windows are replaced as a whole and contain exactly what was stored; what comes later leaves them stale."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from usage_pipeline.rollups import calendar, windows
from usage_pipeline.rollups.daily import SourceGoneError
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.window_tables import WINDOW_TABLES
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import is_error, list_cost, total_tokens
from usage_pipeline_tests.rigs.windows import archive_chunk, event_at, store_events, window_rows

# A Wednesday, long over.
DAY = date(2025, 6, 11)
NOW = datetime(2025, 7, 20, 12, tzinfo=UTC)
UTC_ZONE = Settings().timezone
HOUR_WINDOW = calendar.hour_window(datetime(2025, 6, 11, 10, tzinfo=UTC), UTC_ZONE)
DAY_WINDOW = calendar.day_window(DAY, UTC_ZONE)
WEEK_WINDOW = calendar.week_window(date(2025, 6, 9), UTC_ZONE)
MONTH_WINDOW = calendar.month_window(date(2025, 6, 1), UTC_ZONE)
ALL = [HOUR_WINDOW, DAY_WINDOW, WEEK_WINDOW, MONTH_WINDOW]
AT = datetime(2025, 6, 11, 10, 30, tzinfo=UTC)


def names(postgres: psycopg.Connection, now: datetime = NOW) -> list[str]:
    return [str(one.window) for one in stale_windows(postgres, time_zone=UTC_ZONE, now=now)]


@pytest.mark.parametrize("window", ALL, ids=str)
def test_a_rerun_touches_no_row(window: calendar.Window, settings: Settings, postgres: psycopg.Connection) -> None:
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT, team="other", latency_ms=None))
    for each in ALL:
        replace_window(postgres, each, settings=settings, now=NOW)
    rows = window_rows(postgres, window)
    again = replace_window(postgres, window, settings=settings, now=NOW)
    assert (again.rows, again.changed_rows, again.is_late) == (2, 0, False)
    assert window_rows(postgres, window) == rows


def test_merging_reads_the_latencies_once_for_all_groups_and_not_once_for_each(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, *(event_at(AT, team=f"team-{number}") for number in range(20)))
    for each in ALL:
        replace_window(postgres, each, settings=settings, now=NOW)
    merge = WINDOW_TABLES["month"].replacement("rollups/replace_merged_windows").as_string(postgres)
    bounds = {"window": MONTH_WINDOW.day, "first_day": MONTH_WINDOW.day, "next_day": MONTH_WINDOW.next_day}
    with postgres.transaction(force_rollback=True):
        postgres.execute(windows._PLANNING)
        [(plan,)] = postgres.execute(f"explain (analyze, format json) {merge}", bounds).fetchall()
    scans = [node for node in _nodes(plan[0]["Plan"]) if node.get("Relation Name") == "usage_latency_daily"]
    assert [node["Actual Loops"] for node in scans] == [1]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)


@pytest.mark.parametrize("window", ALL, ids=str)
def test_rows_without_events_are_taken_out_of_the_window_and_of_no_other(
    window: calendar.Window, settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, event_at(AT))
    for each in ALL:
        replace_window(postgres, each, settings=settings, now=NOW)
    table = WINDOW_TABLES[window.grain]
    name = window.start if window.grain == "hour" else window.day
    stray = f"""
        insert into {table.table} ({table.column}, team, service, provider, model, requests, errors, input_tokens,
            output_tokens, total_tokens, distinct_users, unpriced_requests)
        values (%s, 'stray', 's', 'p', 'm', 1, 0, 0, 0, 0, 1, 0)
    """
    postgres.execute(stray, (name,))
    postgres.execute(stray, (name + timedelta(days=1),))
    assert replace_window(postgres, window, settings=settings, now=NOW).changed_rows == 1
    assert [row[1] for row in window_rows(postgres, window)] == ["search"]
    assert postgres.execute(f"select count(*) from {table.table} where team = 'stray'").fetchone() == (1,)


def test_what_is_stored_during_a_roll_up_leaves_its_window_stale_and_the_live_view_right(
    settings: Settings, postgres: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_events(postgres, settings, NOW, event_at(AT))
    replace = windows._replace

    def replace_while_events_come(*arguments: Any) -> Any:
        with psycopg.connect(database_url, autocommit=True) as other:
            store_events(other, settings, NOW, event_at(AT))
        return replace(*arguments)

    replace_window(postgres, HOUR_WINDOW, settings=settings, now=NOW)
    for window in (HOUR_WINDOW, DAY_WINDOW):
        with monkeypatch.context() as patch:
            patch.setattr(windows, "_replace", replace_while_events_come)
            rolled = replace_window(postgres, window, settings=settings, now=NOW)
        [(stored,)] = postgres.execute("select count(*) from analytics.usage_events").fetchall()
        assert rolled.sums["requests"] < stored
        assert str(window) in names(postgres)
        [(live,)] = postgres.execute("select sum(requests) from analytics.usage_hourly_live").fetchall()
        assert live == stored
        assert replace_window(postgres, window, settings=settings, now=NOW).sums["requests"] == stored


def test_one_roll_up_of_a_window_waits_for_another_but_not_forever(
    settings: Settings, postgres: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_LOCK_SECONDS", 0.1)
    with psycopg.connect(database_url, autocommit=True) as other, windows._one_at_a_time(other, DAY_WINDOW):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
        replace_window(postgres, HOUR_WINDOW, settings=settings, now=NOW)
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    assert postgres.execute("show lock_timeout").fetchone() == ("0",)


def test_a_transaction_that_changes_the_same_rows_only_costs_another_attempt(
    settings: Settings, postgres: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As erasing a user does."""
    store_events(postgres, settings, NOW, event_at(AT))
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    replace, attempts = windows._replace, []

    def replace_beside_an_update(*arguments: Any) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("update analytics.usage_user_daily set requests = requests + 5")
        return replace(*arguments)

    store_events(postgres, settings, NOW, event_at(AT))
    monkeypatch.setattr(windows, "_replace", replace_beside_an_update)
    assert replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW).sums["requests"] == 2
    assert len(attempts) == 2


def test_a_deadlock_only_costs_another_attempt(
    settings: Settings, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two transactions that wait for each other PostgreSQL ends one: 40P01."""
    # Now the prices of the day are known, which cost attempts of their own.
    store_events(postgres, settings, NOW, event_at(AT))
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    replace, attempts = windows._replace, []

    def replace_after_a_deadlock(*arguments: Any) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            postgres.execute("do $$ begin raise exception 'deadlock detected' using errcode = '40P01'; end $$")
        return replace(*arguments)

    store_events(postgres, settings, NOW, event_at(AT))
    monkeypatch.setattr(windows, "_replace", replace_after_a_deadlock)
    assert replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW).sums["requests"] == 2
    assert len(attempts) == 2


def test_a_closed_window_that_changes_after_it_was_rolled_up_leaves_a_trace_of_both_sides(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, event_at(AT))
    assert not replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW).is_late
    store_events(postgres, settings, NOW, event_at(AT, status_code=500))
    assert replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW).is_late
    assert not replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW).is_late
    [(table, day, start, before, after)] = postgres.execute(
        "select table_name, usage_date, window_start, before, after from ops.late_data"
    ).fetchall()
    assert (table, day, start) == ("analytics.usage_daily", DAY, DAY_WINDOW.start)
    assert (before["requests"], before["errors"], before["cost_usd"]) == (1, 0, 0.01)
    assert (after["requests"], after["errors"], after["cost_usd"]) == (2, 1, 0.02)


def test_an_empty_closed_window_that_gets_its_first_event_late_is_late_data(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    replace_window(postgres, HOUR_WINDOW, settings=settings, now=NOW)
    store_events(postgres, settings, NOW, event_at(AT))
    assert replace_window(postgres, HOUR_WINDOW, settings=settings, now=NOW).is_late


def test_a_window_that_was_rolled_up_while_it_ran_is_not_late_when_it_closes(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    real_now = datetime.now(UTC)
    today = calendar.day_window(real_now.date(), UTC_ZONE)
    store_events(postgres, settings, real_now, event_at(real_now))
    assert not replace_window(postgres, today, settings=settings).is_late
    assert names(postgres, real_now) == []
    store_events(postgres, settings, real_now, event_at(real_now))
    assert str(today) in names(postgres, today.end)
    closed = replace_window(postgres, today, settings=settings, now=today.end)
    assert (closed.sums["requests"], closed.is_late) == (2, False)


def test_a_week_and_a_month_follow_when_their_days_are_done(settings: Settings, postgres: psycopg.Connection) -> None:
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT + timedelta(days=1)))
    other_day = calendar.day_window(DAY + timedelta(days=1), UTC_ZONE)
    assert names(postgres) == [
        str(DAY_WINDOW),
        str(HOUR_WINDOW),
        str(other_day),
        "hour 2025-06-12T10:00Z",
    ]
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    assert str(WEEK_WINDOW) not in names(postgres)
    replace_window(postgres, other_day, settings=settings, now=NOW)
    assert {str(WEEK_WINDOW), str(MONTH_WINDOW)} <= set(names(postgres))
    # The month still runs: it is not late.
    assert str(MONTH_WINDOW) not in names(postgres, datetime(2025, 6, 20, tzinfo=UTC))
    assert replace_window(postgres, WEEK_WINDOW, settings=settings, now=NOW).sums["requests"] == 2
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    assert str(WEEK_WINDOW) not in names(postgres)


def test_archived_events_are_missed_before_anything_is_replaced(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT))
    for window in ALL:
        replace_window(postgres, window, settings=settings, now=NOW)
    before = {window: window_rows(postgres, window) for window in ALL}
    postgres.execute("delete from analytics.usage_events")
    archive_chunk(postgres, DAY_WINDOW)
    store_events(postgres, settings, NOW, event_at(AT))
    stale = stale_windows(postgres, time_zone=UTC_ZONE, now=NOW)
    assert {(str(one.window), one.is_archived) for one in stale} == {(str(HOUR_WINDOW), True), (str(DAY_WINDOW), True)}
    for window in (HOUR_WINDOW, DAY_WINDOW):
        with pytest.raises(SourceGoneError, match="archive restore 2025-06-11"):
            replace_window(postgres, window, settings=settings, now=NOW)
    assert str(DAY_WINDOW) in names(postgres), "it stays stale"
    postgres.execute("delete from ops.touched_windows where grain = 'day'")
    postgres.execute("insert into ops.touched_windows (grain, window_start) values ('week', %s)", (WEEK_WINDOW.start,))
    week = stale_windows(postgres, time_zone=UTC_ZONE, now=NOW)[0]
    assert (week.window, week.is_archived) == (WEEK_WINDOW, False), "its days outlive the events"
    for window in (WEEK_WINDOW, MONTH_WINDOW):
        assert replace_window(postgres, window, settings=settings, now=NOW).changed_rows == 0
    assert {window: window_rows(postgres, window) for window in ALL} == before
    [(live,)] = postgres.execute("select sum(requests) from analytics.usage_hourly_live").fetchall()
    assert live == 2, "the stored hour, and not only the event that came late"
    postgres.execute("update ops.archives set restored_at = now()")
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)


def test_events_that_left_at_the_end_of_the_retention_are_not_replaced_by_less(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT))
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    postgres.execute("delete from analytics.usage_events")
    much_later = NOW + timedelta(days=settings.retention_days)
    with pytest.raises(SourceGoneError, match=r"the 2 events .* came 0: it is older than RETENTION_DAYS=180"):
        replace_window(postgres, DAY_WINDOW, settings=settings, now=much_later)
    assert replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW).rows == 0, "within it, they were erased"


def test_absurd_token_counts_do_not_stop_the_roll_up_of_others(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    most = 2**63 - 1
    absurd = {"input_tokens": most, "output_tokens": 0}
    store_events(postgres, settings, NOW, event_at(AT, **absurd), event_at(AT, **absurd), event_at(AT, team="sane"))
    for window in ALL:
        replace_window(postgres, window, settings=settings, now=NOW)
        rows = window_rows(postgres, window, "team, total_tokens, cost_usd")
        assert [row[:2] for row in rows] == [("sane", 2_500), ("search", most)]
        assert rows[1][2] == Decimal(2 * most) * Decimal("0.0000025"), "costs are not cut off"


UNHEARD_OF = {"provider": "acme", "model": "unheard-of"}
EMBEDDING = {"model": "text-embedding-3-small"}
# What an event is (the rest as in event_at); by contracts §8.1 and §8.2 its total tokens, errors, cost, unpriced requests.
PRICED: list[tuple[dict[str, Any], tuple[int, int, str | None, int]]] = [
    ({"error_type": ""}, (2_500, 0, "0.01", 0)),
    ({"input_tokens": 1_000, "output_tokens": None}, (1_000, 0, "0.0025", 0)),
    ({"input_tokens": None, "output_tokens": 100}, (100, 0, "0.001", 0)),
    ({"input_tokens": None, "total_tokens": 500}, (500, 0, "0.005", 0)),
    ({"input_tokens": None, "total_tokens": 501}, (501, 0, None, 1)),
    ({"output_tokens": None, "total_tokens": 2_001}, (2_001, 0, None, 1)),
    ({"input_tokens": None, "output_tokens": None, "total_tokens": 9}, (9, 0, None, 1)),
    ({"input_tokens": None, "output_tokens": None}, (0, 0, None, 1)),
    ({**EMBEDDING, "input_tokens": 1_000, "output_tokens": None}, (1_000, 0, "0.00002", 0)),
    ({**EMBEDDING, "input_tokens": 1_000, "output_tokens": None, "total_tokens": 1_010}, (1_010, 0, "0.00002", 0)),
    ({"status_code": 429, "input_tokens": 50_000, "output_tokens": 0}, (50_000, 1, "0", 0)),
    ({"status_code": 499, "input_tokens": 2_000, "output_tokens": None}, (2_000, 1, "0", 0)),
    ({"status_code": 503, "input_tokens": None, "output_tokens": None}, (0, 1, "0", 0)),
    ({"error_type": "timeout", "output_tokens": 0, **UNHEARD_OF}, (2_000, 1, "0", 0)),
    (
        {"provider": "perplexity", "model": "sonar", "status_code": 503, "input_tokens": 0, "output_tokens": 0},
        (0, 1, "0", 0),
    ),
    ({"status_code": 500}, (2_500, 1, "0.01", 0)),
    (UNHEARD_OF, (2_500, 0, None, 1)),
]


@pytest.mark.parametrize(("changes", "right"), PRICED, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_a_request_counts_and_costs_what_the_contracts_say(
    changes: dict[str, Any], right: tuple[int, int, str | None, int], settings: Settings, postgres: psycopg.Connection
) -> None:
    sent = event_at(AT, **changes)
    total, errors, cost, unpriced = right
    expected = (total, errors, None if cost is None else Decimal(cost), unpriced)
    assert expected == (total_tokens(sent), is_error(sent), list_cost(sent), list_cost(sent) is None), (
        "the oracle agrees"
    )
    store_events(postgres, settings, NOW, sent)
    for window in ALL:
        replace_window(postgres, window, settings=settings, now=NOW)
        assert window_rows(postgres, window, "total_tokens, errors, cost_usd, unpriced_requests") == [expected]
    columns = "total_tokens, errors, cost_usd, unpriced_requests"
    assert postgres.execute(f"select {columns} from analytics.usage_user_daily").fetchall() == [expected]
    assert postgres.execute(f"select {columns} from analytics.usage_hourly_live").fetchall() == [expected]


def test_requests_without_a_price_do_not_hide_what_the_others_cost(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    unknown = {"input_tokens": None, "output_tokens": None}
    store_events(
        postgres, settings, NOW, event_at(AT), event_at(AT, **unknown), event_at(AT, **unknown, status_code=500)
    )
    for window in ALL:
        replace_window(postgres, window, settings=settings, now=NOW)
        rows = window_rows(postgres, window, "requests, cost_usd, unpriced_requests")
        assert rows == [(3, Decimal("0.01"), 1)]


def test_percentiles_are_those_of_postgresql(settings: Settings, postgres: psycopg.Connection) -> None:
    latencies = [3, 3, 3, 10, 20, 20, 100, 1_000, 5_000, 90_000, 90_001]
    store_events(postgres, settings, NOW, *(event_at(AT, latency_ms=ms) for ms in latencies))
    [(expected,)] = postgres.execute(
        "select percentile_cont(array[0.5, 0.95, 0.99]) within group (order by latency_ms) from analytics.usage_events"
    ).fetchall()
    for window in ALL:
        replace_window(postgres, window, settings=settings, now=NOW)
        columns = "latency_p50_ms, latency_p95_ms, latency_p99_ms"
        assert window_rows(postgres, window, columns) == [tuple(expected)]


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Vienna", "Asia/Kolkata", "America/Havana", "Africa/Cairo", "Pacific/Apia"]
)
def test_windows_have_the_names_that_postgresql_gives_and_leave_no_moment_out(
    zone: str, postgres: psycopg.Connection
) -> None:
    time_zone = Settings(usage_timezone=zone).timezone
    previous_end = None
    for offset in range(366):
        window = calendar.day_window(date(2025, 1, 1) + timedelta(days=offset), time_zone)
        assert previous_end in (None, window.first)
        previous_end = window.end
        last = window.end - timedelta(microseconds=1)
        first_name, last_name, week, month = (
            postgres.execute("select date_trunc(%s, %s, %s)", (grain, moment, zone)).fetchall()[0][0]
            for grain, moment in (("day", window.first), ("day", last), ("week", last), ("month", last))
        )
        assert first_name == last_name == window.start
        assert calendar.window_at("day", window.start, time_zone) == window
        assert calendar.week_window(calendar.week_of(window.day), time_zone).start == week
        assert calendar.month_window(calendar.month_of(window.day), time_zone).start == month
        for start in calendar.hours_of(window):
            [(hour,)] = postgres.execute("select date_trunc('hour', %s, %s)", (start, zone)).fetchall()
            assert hour == start


def test_a_week_begins_on_monday_and_a_month_on_its_first() -> None:
    with pytest.raises(ValueError, match="expected a Monday, came Wednesday 2025-06-11"):
        calendar.week_window(DAY, UTC_ZONE)
    with pytest.raises(ValueError, match="expected the first day of a month, came 2025-06-11"):
        calendar.month_window(DAY, UTC_ZONE)


def test_analysts_see_days_by_team_service_model_and_user(settings: Settings, postgres: psycopg.Connection) -> None:
    store_events(
        postgres,
        settings,
        NOW,
        event_at(AT),
        event_at(AT, model="gpt-4o-mini", user_id="user-2", status_code=429),
        event_at(AT, team="other", service="batch"),
        event_at(AT, model="unheard-of"),
    )
    replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    columns = "requests, errors, total_tokens, distinct_users, cost_usd::float8, unpriced_requests"
    assert postgres.execute(f"select team, {columns} from reporting.usage_by_team order by 1").fetchall() == [
        ("other", 1, 0, 2_500, 1, 0.01, 0),
        ("search", 3, 1, 7_500, 2, 0.0106, 1),
    ]
    assert postgres.execute(
        "select service, requests, distinct_users from reporting.usage_by_service order by 1"
    ).fetchall() == [
        ("batch", 1, 1),
        ("chat", 3, 2),
    ]
    assert postgres.execute(
        "select provider, model, requests, distinct_users, cost_usd::float8 from reporting.usage_by_model order by 2"
    ).fetchall() == [
        ("openai", "gpt-4o", 2, 1, 0.02),
        ("openai", "gpt-4o-mini", 1, 1, 0.0006),
        ("openai", "unheard-of", 1, 1, None),
    ]
    assert postgres.execute(
        "select user_id, sum(requests)::int, sum(errors)::int, sum(cost_usd)::float8, sum(unpriced_requests)::int"
        " from reporting.usage_by_user group by 1 order by 1"
    ).fetchall() == [("user-1", 3, 0, 0.02, 1), ("user-2", 1, 1, 0.0006, 0)]
    assert postgres.execute(
        "select user_id, team, service, provider, model, requests from reporting.usage_by_user order by 1, 2, 5"
    ).fetchall() == [
        ("user-1", "other", "batch", "openai", "gpt-4o", 1),
        ("user-1", "search", "chat", "openai", "gpt-4o", 1),
        ("user-1", "search", "chat", "openai", "unheard-of", 1),
        ("user-2", "search", "chat", "openai", "gpt-4o-mini", 1),
    ]


def test_the_live_view_has_the_columns_of_the_stored_hours(postgres: psycopg.Connection) -> None:
    columns = (
        "select column_name, data_type from information_schema.columns where table_name = %s order by ordinal_position"
    )
    stored, live = (postgres.execute(columns, (name,)).fetchall() for name in ("usage_hourly", "usage_hourly_live"))
    assert stored == live


def test_late_data_can_be_read_as_json(settings: Settings, postgres: psycopg.Connection) -> None:
    report = replace_window(postgres, DAY_WINDOW, settings=settings, now=NOW)
    assert json.loads(json.dumps(report.sums))["requests"] == 0

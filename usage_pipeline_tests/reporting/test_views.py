"""The views for analysts: right on a known fortnight and on an empty database, in another time zone, and up to now."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import psycopg
import pytest

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.issue_stats import replace_issue_stats
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.end_to_end.rigs.usage_frames import tenths
from usage_pipeline_tests.reporting.reporting_rig import KEYS, LATE_DAYS_AGO, LATE_EVENTS, MERCHANTS, Fortnight, roll_up
from usage_pipeline_tests.rigs.events import as_items, event
from usage_pipeline_tests.rigs.places import DOCS

PERCENTILES = "latency_p50_ms, latency_p95_ms, latency_p99_ms"


def views(connection: psycopg.Connection) -> list[str]:
    query = "select viewname::text from pg_views where schemaname = 'reporting' order by 1"
    return [name for (name,) in connection.execute(query)]


def test_every_view_answers_on_an_empty_database(postgres: psycopg.Connection) -> None:
    rows = {view: postgres.execute(f"select * from reporting.{view}").fetchall() for view in views(postgres)}
    assert {view for view, found in rows.items() if found} == {"current_day", "data_freshness"}
    unknown = [(None, None, 0), (None, None, None)]
    assert {row[2:] for row in rows["data_freshness"]} == set(unknown)


def test_the_page_for_analysts_names_every_view(postgres: psycopg.Connection) -> None:
    page = (DOCS / "analysts.md").read_text(encoding="utf-8")
    assert [view for view in views(postgres) if f"| `{view}`" not in page and f", `{view}`" not in page] == []


def test_days_are_dates_and_amounts_name_their_unit(postgres: psycopg.Connection) -> None:
    columns = postgres.execute(
        "select column_name, data_type from information_schema.columns where table_schema = 'reporting'"
    ).fetchall()
    dates = ("_date", "_on", "week_start", "month_start", "today", "_day")
    named_as_dates = [(name, kind) for name, kind in columns if name.endswith(dates)]
    assert {kind for _, kind in named_as_dates} == {"date"}
    assert {name for name, kind in columns if kind == "date"} == {name for name, _ in named_as_dates}
    for word, unit in (("cost", "_usd"), ("latency", "_ms"), ("file_size", "_bytes"), ("bytes", "_bytes")):
        assert [name for name, _ in columns if word in name and not name.endswith(unit)] == []


@pytest.mark.parametrize("view", ["team", "service", "model"])
def test_usage_per_day_counts_each_user_once(view: str, analyst: psycopg.Connection, sent: Fortnight) -> None:
    keys = ["day", *(["provider", "model"] if view == "model" else [view])]
    expected = sent.events.groupby(keys).agg(
        requests=("event_id", "size"),
        errors=("status_code", lambda codes: int((codes >= 400).sum())),
        users=("user_id", "nunique"),
    )
    columns = ", ".join(["usage_date", *keys[1:], "requests", "errors", "distinct_users"])
    rows = analyst.execute(f"select {columns} from reporting.usage_by_{view}").fetchall()
    assert sorted(rows) == sorted(expected.reset_index().itertuples(index=False, name=None))


@pytest.mark.parametrize(
    ("view", "keys"),
    [
        ("latency_by_service", ["day", "service"]),
        ("latency_by_model", ["day", "provider", "model"]),
        ("latency_by_service_and_week", ["week", "service"]),
    ],
)
def test_percentiles_are_those_of_all_requests(
    view: str, keys: list[str], analyst: psycopg.Connection, sent: Fortnight
) -> None:
    measured = sent.events.dropna(subset="latency_ms")
    measured = measured.assign(week=[day - timedelta(days=day.weekday()) for day in measured.day])
    expected = {
        key: [len(mine), *map(tenths, mine.quantile([0.5, 0.95, 0.99]))]
        for key, mine in measured.groupby(keys).latency_ms
    }
    names = ", ".join([{"day": "usage_date", "week": "week_start"}[keys[0]], *keys[1:]])
    rows = analyst.execute(f"select {names}, measured_requests, {PERCENTILES} from reporting.{view}").fetchall()
    assert {row[: len(keys)]: list(row[len(keys) :]) for row in rows} == expected


def test_the_running_hour_is_there_before_it_is_rolled_up(settings: Settings, postgres: psycopg.Connection) -> None:
    now = datetime.now(UTC)
    old = now - timedelta(days=2)
    for at in (old, now):
        items = as_items(event(event_time=at.isoformat()))
        ingest(postgres, EVENTS, items, source="test", settings=settings)
        if at == old:
            roll_up(postgres, settings)
    # A late one, for an hour that is stored already.
    items = as_items(event(event_time=old.isoformat(), user_id="user-2"))
    ingest(postgres, EVENTS, items, source="test", settings=settings)
    expected = postgres.execute(
        "select hour_start, requests, distinct_users, cost_usd from analytics.usage_hourly_live"
    )
    rows = expected.fetchall()
    assert sorted(row[1] for row in rows) == [1, 2]
    postgres.execute("set role usage_analyst")
    query = "select hour_start, requests, distinct_users, cost_usd from reporting.usage_by_hour"
    assert sorted(postgres.execute(query).fetchall()) == sorted(rows)


def test_activity_of_keys(analyst: psycopg.Connection, sent: Fortnight) -> None:
    ago = np.array([(sent.today - day).days for day in sent.requests.day])
    rows = analyst.execute(
        "select api_key_id, first_used_on, last_used_on, requests_last_7_days, requests_last_30_days, total_requests,"
        " failed_requests, uploaded_bytes from reporting.api_key_activity"
    ).fetchall()
    assert {row[0] for row in rows} == set(KEYS)
    for key, first, last, week, month, total, failed, uploaded in rows:
        mine = (sent.requests.key == key).to_numpy()
        assert (first, last) == tuple(sent.today - timedelta(days=days) for days in (max(KEYS[key]), min(KEYS[key])))
        assert (week, month, total) == ((mine & (ago < 7)).sum(), mine.sum(), mine.sum())
        assert failed == sent.requests.failed[mine].sum()
        assert uploaded == 100 * mine.sum()


def test_a_key_that_was_never_rolled_up_and_one_without_requests_are_there(postgres: psycopg.Connection) -> None:
    postgres.execute("insert into usage.api_keys (api_key_id) values ('quiet')")
    query = "select api_key_id, last_used_on, requests_last_7_days, error_share from reporting.api_key_activity"
    assert postgres.execute(query).fetchall() == [("quiet", None, 0, None)]


def test_counters_per_day(analyst: psycopg.Connection, sent: Fortnight) -> None:
    days = Counter(ago for used in KEYS.values() for ago in used)
    rows = analyst.execute(
        "select usage_date, sum(uploads)::int from reporting.storage_provider_usage_by_day"
        " where storage_provider = 's3' and uploaded_bytes = 100 * uploads group by 1"
    ).fetchall()
    assert dict(rows) == {sent.today - timedelta(days=ago): count for ago, count in days.items()}
    tokens = analyst.execute("select usage_date, token_id, token_name, uses from reporting.api_token_usage_by_day")
    assert sorted(tokens.fetchall()) == sorted(
        (sent.today - timedelta(days=ago), "token-1", None, count) for ago, count in days.items()
    )
    merchants = analyst.execute("select merchant_id, usage_date, metric_value from reporting.merchant_usage_by_day")
    assert sorted(merchants.fetchall()) == sorted(
        (merchant, sent.today - timedelta(days=ago), count)
        for merchant, counts in MERCHANTS.items()
        for ago, count in counts.items()
    )


def test_tokens_show_their_names_and_nothing_to_sign_in_with(postgres: psycopg.Connection) -> None:
    postgres.execute(
        "insert into usage.api_access_tokens (token_id, token_prefix, token_hash, name) values ('t', 'pre', 'hash', 'loader')"
    )
    postgres.execute("insert into usage.token_daily (usage_date, token_id, usage_count) values ('2026-01-01', 't', 3)")
    [row] = postgres.execute("select * from reporting.api_token_usage_by_day").fetchall()
    assert [str(value) for value in row] == ["2026-01-01", "t", "loader", "3"]


def test_the_backlog_is_counted_in_the_time_zone_of_the_pipeline(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    """In Auckland this issue is of the 2nd, and done on the 4th."""
    settings = load_settings(database_url=database_url, redis_url=redis_url, usage_timezone="Pacific/Auckland")
    postgres.execute("update ops.calendar set time_zone = 'Pacific/Auckland'")
    postgres.execute(
        "insert into app.issues (id, title, status, created_at, resolved_at)"
        " values ('1', 'x', 'CLOSED', '2026-03-01T12:30Z', '2026-03-03T12:30Z')"
    )
    first = datetime(2026, 3, 1, tzinfo=UTC).date()
    replace_issue_stats(postgres, first, first + timedelta(days=3), settings=settings)
    rows = postgres.execute(
        "select extract(day from issue_date)::int, created_issues, resolved_issues, net_issues, open_issues"
        " from reporting.issue_flow order by 1"
    ).fetchall()
    assert rows == [(1, 0, 0, 0, 0), (2, 1, 0, 1, 1), (3, 0, 0, 0, 1), (4, 0, 1, -1, 0)]
    # Days before the first that is counted are not missed.
    postgres.execute("delete from stats.daily_issue_stats where date <= '2026-03-02'")
    assert postgres.execute("select min(open_issues), max(open_issues) from reporting.issue_flow").fetchall() == [
        (0, 1)
    ]


def test_late_corrections_say_what_changed(analyst: psycopg.Connection, sent: Fortnight) -> None:
    day = sent.today - timedelta(days=LATE_DAYS_AGO)
    [(before, after, change)] = analyst.execute(
        "select value_before, value_after, change from reporting.late_corrections"
        " where table_name = 'analytics.usage_daily' and measure = 'requests' and usage_date = %s",
        (day,),
    ).fetchall()
    assert after == int((sent.events.day == day).sum())
    assert (change, before) == (LATE_EVENTS, after - LATE_EVENTS)
    tokens = analyst.execute(
        "select change from reporting.late_corrections"
        " where table_name = 'analytics.usage_daily' and measure = 'total_tokens'"
    ).fetchall()
    late = sent.events.tail(LATE_EVENTS)
    assert tokens == [(int((late.input_tokens + late.output_tokens).sum()),)]


def test_a_closed_window_that_waits_for_its_correction_is_told(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    items = as_items(event(event_time=(datetime.now(UTC) - timedelta(days=1)).isoformat()))
    ingest(postgres, EVENTS, items, source="test", settings=settings)
    query = "select table_name, newest_complete_day, closed_windows_waiting from reporting.data_freshness"
    waiting = {name: (day, count) for name, day, count in postgres.execute(query)}
    assert waiting["analytics.usage_daily"] == waiting["analytics.usage_hourly"] == (None, 1)
    roll_up(postgres, settings)
    waiting = {name: (day, count) for name, day, count in postgres.execute(query)}
    assert waiting["analytics.usage_daily"] == (datetime.now(UTC).date() - timedelta(days=1), 0)


def test_freshness_names_each_view_of_a_table(postgres: psycopg.Connection) -> None:
    lists = postgres.execute("select views from reporting.data_freshness where views is not null").fetchall()
    named = {view for (views_of_table,) in lists for view in views_of_table.split(", ")}
    # These are computed from issues and from the ledgers themselves.
    computed = {"current_day", "data_freshness", "late_corrections", "time_to_resolve_by_week"}
    assert named == set(views(postgres)) - computed


def test_rankings_have_every_ranking_and_the_newest_apart(postgres: psycopg.Connection) -> None:
    tables = postgres.execute(
        "select tablename::text from pg_tables where schemaname = 'stats' and tablename like 'popular_%'"
    ).fetchall()
    for (table,) in tables:
        for day in ("2026-01-01", "2026-01-02"):
            part = "created_at" if table == "popular_issues" else None
            parts = postgres.execute(
                "select column_name::text from information_schema.columns where table_schema = 'stats' and table_name = %s"
                " and column_name not in ('ranking_date', 'rank', 'id', 'title', 'score')",
                (table,),
            ).fetchall()
            values = ", ".join("now()" if name == part else "1" for (name,) in parts)
            postgres.execute(
                f"insert into stats.{table} (ranking_date, rank, id, title, score, {', '.join(name for (name,) in parts)})"
                f" values (%s, 1, %s, 'Title', 5, {values})",
                (day, f"{table} of {day}"),
            )
    everything = postgres.execute("select ranking, id from reporting.rankings").fetchall()
    newest = postgres.execute("select ranking, ranking_date::text, rank, id, score from reporting.current_rankings")
    assert len(everything) == 2 * len(tables)
    assert sorted(newest.fetchall()) == sorted(
        (table.removeprefix("popular_"), "2026-01-02", 1, f"{table} of 2026-01-02", 5) for (table,) in tables
    )


def test_costs_per_month_add_up_and_say_what_has_none(analyst: psycopg.Connection, sent: Fortnight) -> None:
    events = sent.events.assign(month=[day.replace(day=1) for day in sent.events.day])
    rows = analyst.execute(
        "select month_start, team, model, requests, unpriced_requests, cost_usd::float8 from reporting.cost_by_team_and_month"
    ).fetchall()
    groups = events.groupby(["month", "team", "model"])
    assert {row[:3]: row[3:5] for row in rows} == {
        key: (len(mine), int(mine.cost.isna().sum())) for key, mine in groups
    }
    for month, team, model, _, unpriced, cost in rows:
        expected = groups.get_group((month, team, model)).cost.sum(min_count=1)
        assert (cost is None) == pd.isna(expected) == (unpriced > 0)
        assert cost is None or cost == pytest.approx(expected)

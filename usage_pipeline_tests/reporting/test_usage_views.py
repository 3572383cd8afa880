"""Views over usage events are what pandas makes of the events, charge-back tells changes, and filters reach the tables."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from usage_pipeline.events.corrections.events import Wanted, correct
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.end_to_end.rigs.usage_frames import TABLES, Table
from usage_pipeline_tests.end_to_end.rigs.usage_tables import assert_tables_equal
from usage_pipeline_tests.reporting.reporting_rig import TAG, Fortnight, roll_up
from usage_pipeline_tests.rigs.events import as_items, event

GROUP = ["team", "service", "provider", "model"]
VIEWS = [table for table in TABLES if table.name.startswith("reporting.")]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_each_view_is_what_the_events_add_up_to(view: Table, analyst: psycopg.Connection, sent: Fortnight) -> None:
    assert_tables_equal(analyst, sent.usage, [TAG], [view])


def test_errors_are_told_by_type_and_status_with_their_share(analyst: psycopg.Connection, sent: Fortnight) -> None:
    failed = sent.usage[sent.usage.errors > 0]
    requests = sent.usage.groupby(["day", *GROUP]).size()
    expected = {
        key: (len(mine), int(requests[key[:5]]), round(len(mine) / int(requests[key[:5]]), 4))
        for key, mine in failed.groupby(["day", *GROUP, "error_type", "status_code"])
    }
    rows = analyst.execute(
        f"select usage_date, {', '.join(GROUP)}, error_type, status_code, errors, requests, error_share::float8"
        " from reporting.errors_by_type"
    ).fetchall()
    assert {row[:7]: row[7:] for row in rows} == expected
    assert len(rows) == len(expected) > 20


def test_errors_whose_types_are_not_known_are_no_absence_of_errors(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    """Of days whose events were dropped before types were kept."""
    failed = [event(status_code=status) for status in (500, 500, 429)]
    ingest(postgres, EVENTS, as_items(*failed, event()), source="test", settings=settings)
    roll_up(postgres, settings)
    query = (
        "select error_type, status_code, errors, requests, error_share::float8 from reporting.errors_by_type order by 2"
    )
    assert postgres.execute(query).fetchall() == [("", 429, 1, 4, 0.25), ("", 500, 2, 4, 0.5)]
    postgres.execute("delete from analytics.usage_error_daily where status_code = 500")
    assert postgres.execute(query).fetchall() == [("", 429, 1, 4, 0.25), (None, None, 2, 4, 0.5)]
    postgres.execute("delete from analytics.usage_error_daily")
    assert postgres.execute(query).fetchall() == [(None, None, 3, 4, 0.75)]


def test_charge_back_adds_up_by_team_and_month(analyst: psycopg.Connection, sent: Fortnight) -> None:
    rows = analyst.execute(
        "select month_start, team, requests, cost_usd, list_cost_usd, reported_cost_usd, unpriced_requests,"
        " unlisted_requests, reported_requests, corrections from reporting.charge_back"
    ).fetchall()
    expected = {}
    for key, mine in sent.usage.groupby(["month", "team"]):
        known = mine.cost_usd.dropna()
        cost = sum(known, Decimal(0)) if len(known) else None
        without = int(mine.cost_usd.isna().sum())
        expected[key] = (len(mine), cost, cost, None, without, without, 0, 0)
    assert {row[:2]: row[2:] for row in rows} == expected


def test_charge_back_tells_how_often_a_month_changed_after_its_days_were_closed(
    analyst: psycopg.Connection, sent: Fortnight
) -> None:
    late = sent.usage.tail(4)
    months = {day.replace(day=1): late[late.month == day.replace(day=1)] for day in late.day}
    rows = analyst.execute(
        "select month_start, late_changes, late_change_usd, last_changed_at is not null from reporting.charge_back"
    ).fetchall()
    for month, changes, change_usd, is_dated in rows:
        mine = months.get(month)
        assert (changes, is_dated) == ((0, False) if mine is None else (1, True))
        assert change_usd == (0 if mine is None else sum(mine.cost_usd.dropna(), Decimal(0)))
    assert any(row[1] for row in rows)


def test_charge_back_counts_corrections_where_an_event_was_and_where_it_is(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    """One event moves to another team, one is put right within its team, and one, all that its team had, is taken out."""
    at = datetime.now(UTC) - timedelta(days=40)
    moved, mended, only = (event(event_time=at.isoformat(), team=team) for team in ("a", "b", "c"))
    ingest(postgres, EVENTS, as_items(moved, mended, only), source="test", settings=settings)
    roll_up(postgres, settings)
    steps = [
        Wanted("wrong team", event=as_items({**moved, "team": "b"})[0]),
        Wanted("wrong user", event=as_items({**mended, "user_id": "user-2"})[0]),
        Wanted("a test", UUID(only["event_id"])),
    ]
    outcomes = correct(postgres, steps, corrected_by="me", settings=settings)
    assert [one.outcome for one in outcomes] == ["corrected"] * 3
    # The month is rolled up once a day; what a day says now is in the view all the same.
    replace_window(postgres, day_window(at.date(), settings.timezone), settings=settings)
    rows = postgres.execute(
        "select team, requests, cost_usd, corrections, late_changes, late_change_usd from reporting.charge_back"
        " where month_start = %s order by 1",
        (at.date().replace(day=1),),
    ).fetchall()
    each = Decimal("0.00045")
    assert rows == [("a", 0, None, 1, 1, -each), ("b", 2, 2 * each, 2, 1, -each), ("c", 0, None, 1, 1, -each)]
    [(latest, corrected_at, detected_at)] = postgres.execute(
        "select max(last_changed_at), (select max(corrected_at) from ops.corrections),"
        " (select max(detected_at) from ops.late_data where table_name = 'analytics.usage_daily') from reporting.charge_back"
    ).fetchall()
    assert latest == max(corrected_at, detected_at)


# View, the column of its span, another column to choose by, and the tables under it that must be found by index.
CHOSEN = [
    ("usage_by_user", "usage_date", "user_id", ["usage_user_daily"]),
    ("usage_by_user", "usage_date", "team", ["usage_user_daily"]),
    ("usage_by_day", "usage_date", "service", ["usage_daily"]),
    ("usage_by_week", "week_start", "team", ["usage_weekly"]),
    ("usage_by_month", "month_start", "team", ["usage_monthly"]),
    ("usage_by_api_key", "usage_date", "api_key_id", ["usage_api_key_daily"]),
    ("usage_by_tag", "usage_date", "tag", ["usage_tag_daily"]),
    ("errors_by_type", "usage_date", "team", ["usage_error_daily", "usage_daily"]),
    ("charge_back", "month_start", "team", ["usage_daily"]),
]


@pytest.mark.parametrize(("view", "span", "column", "tables"), CHOSEN)
def test_what_is_chosen_is_looked_up_in_the_tables_and_not_sifted_out_of_everything(
    view: str, span: str, column: str, tables: list[str], postgres: psycopg.Connection
) -> None:
    # The tables are empty, so that reading them whole would be the cheapest.
    postgres.execute("set enable_seqscan = off")
    query = (
        f"select * from reporting.{view} where {span} >= '2026-01-01' and {span} < '2026-02-01' and {column} = 'one'"
    )
    [(plan,)] = postgres.execute(f"explain (format json) {query}").fetchall()
    scans = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") in tables]
    assert {node["Relation Name"] for node in scans} == set(tables)
    for node in scans:
        conditions = " ".join(node.get(name, "") for name in ("Index Cond", "Recheck Cond", "Filter"))
        # A month of a table of days is found by an index of months.
        kept_by = "date_trunc" if tables == ["usage_daily"] and span == "month_start" else span
        assert kept_by in node.get("Index Cond", node.get("Recheck Cond", "")), node
        # The days of errors are found by the key of the group of each.
        assert "'one'" in conditions or "sha256" in conditions, node


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)

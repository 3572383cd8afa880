"""The questions of docs/analysts.md, asked as the analyst's role, equal what pandas answers from what was sent."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest
from psycopg.rows import dict_row

from usage_pipeline.storage.sql import sql_folder
from usage_pipeline_tests.reporting.reporting_rig import DAYS, LATE_DAYS_AGO, LATE_EVENTS, PRICES, Fortnight
from usage_pipeline_tests.rigs.places import DOCS

QUESTIONS = {path.stem: path.read_text(encoding="utf-8") for path in (sql_folder() / "reporting").glob("*.sql")}
Rows = list[dict[str, Any]]


@pytest.fixture
def ask(analyst: psycopg.Connection) -> Any:
    def answer(question: str) -> Rows:
        with analyst.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(QUESTIONS[question]).fetchall()

    return answer


def as_float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def test_there_are_fifteen_and_each_is_a_question() -> None:
    assert len(QUESTIONS) == 15
    assert all(text.startswith("-- ") and text.splitlines()[0].endswith("?") for text in QUESTIONS.values())
    assert {name.removeprefix("test_") for name in globals() if name.startswith("test_")} >= set(QUESTIONS)


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_the_page_shows_the_query_that_is_asked(name: str) -> None:
    question, query = QUESTIONS[name].removeprefix("-- ").split("\n", 1)
    shown = f"<!-- answer: {name} -->\n**{question}**\n\n```sql\n{query.strip()}\n```\n\n| "
    assert shown in (DOCS / "analysts.md").read_text(encoding="utf-8"), "run docs/answer_questions.py"


def test_which_team_spent_most(ask: Any, sent: Fortnight) -> None:
    events = sent.events[[day.replace(day=1) == sent.today.replace(day=1) for day in sent.events.day]]
    expected = []
    for team, mine in events.groupby("team"):
        per_model = mine.groupby("model").cost.sum(min_count=1).dropna().sort_values(ascending=False)
        unpriced = int(mine.cost.isna().sum())
        expected.append((team, per_model.sum(), per_model.index[0], per_model.iloc[0], unpriced))
    expected.sort(key=lambda row: -row[1])
    answers = ask("which_team_spent_most")
    assert [(row["team"], row["dearest_model"], row["unpriced_requests"]) for row in answers] == [
        (team, model, unpriced) for team, _, model, _, unpriced in expected
    ]
    for row, (_, cost, _, cost_of_model, _) in zip(answers, expected, strict=True):
        assert float(row["cost_usd"]) == pytest.approx(cost, abs=0.0051)
        assert float(row["cost_of_model_usd"]) == pytest.approx(cost_of_model, abs=0.0051)


def test_what_do_requests_cost(ask: Any, sent: Fortnight) -> None:
    events = sent.events.assign(month=[day.replace(day=1) for day in sent.events.day])
    answers = {(row["month_start"], row["model"]): row for row in ask("what_do_requests_cost")}
    groups = events.groupby(["month", "model"])
    assert len(answers) == len(groups) == len(PRICES) * events.month.nunique()
    for key, mine in groups:
        row = answers[key]
        assert row["requests"] == len(mine)
        if mine.cost.isna().all():
            assert row["cost_per_1000_requests_usd"] is None
            assert row["unpriced_requests"] == len(mine)
        else:
            assert float(row["cost_per_1000_requests_usd"]) == pytest.approx(1000 * mine.cost.mean(), abs=0.0051)
            assert row["unpriced_requests"] == 0


def test_why_did_the_cost_rise(ask: Any, sent: Fortnight) -> None:
    events = sent.events.assign(is_recent=[day > sent.today - timedelta(days=14) for day in sent.events.day])
    # The fortnight begins a day before the last 14 days, so both sides have some.
    assert set(events.is_recent) == {True, False}
    answers = ask("why_did_the_cost_rise")
    groups = dict(list(events.groupby(["service", "provider", "model"])))
    assert {(row["service"], row["provider"], row["model"]) for row in answers} == set(groups)
    for row in answers:
        mine = groups[row["service"], row["provider"], row["model"]]
        recent, before = mine[mine.is_recent], mine[~mine.is_recent]
        assert (row["requests"] or 0, row["requests_before"] or 0) == (len(recent), len(before))
        costs = [recent.cost.sum(min_count=1), before.cost.sum(min_count=1)]
        for name, cost in zip(("cost_usd", "cost_usd_before"), costs, strict=True):
            assert as_float(row[name]) == (None if pd.isna(cost) else pytest.approx(cost, abs=0.0051))
        assert row["unpriced_requests"] == mine.cost.isna().sum()
        change = np.nan if mine.cost.isna().all() else recent.cost.sum() - before.cost.sum()
        assert as_float(row["change_usd"]) == (None if pd.isna(change) else pytest.approx(change, abs=0.0051))
    changes = [row["change_usd"] for row in answers if row["change_usd"] is not None]
    assert changes == sorted(changes, reverse=True)
    assert [row["model"] for row in answers[len(changes) :]] == ["house-model-1"] * (len(answers) - len(changes))


def cost_of(events: pd.DataFrame) -> float | None:
    return None if events.cost.isna().all() else float(events.cost.sum())


def is_near(found: Decimal | None, expected: float | None) -> bool:
    return (found is None) == (expected is None) and (
        found is None or float(found) == pytest.approx(expected, abs=0.0051)
    )


def test_who_are_the_dearest_users(ask: Any, sent: Fortnight) -> None:
    answers = ask("who_are_the_dearest_users")
    users = dict(list(sent.events.groupby("user_id")))
    assert {row["user_id"] for row in answers} == set(users)
    costs = [cost_of(users[row["user_id"]]) or 0 for row in answers]
    assert costs == sorted(costs, reverse=True)
    for row in answers:
        mine = users[row["user_id"]]
        assert row["requests"] == len(mine)
        assert is_near(row["cost_usd"], cost_of(mine))
        groups = {key: cost_of(part) or 0 for key, part in mine.groupby(["team", "service", "model"])}
        dearest = (row["dearest_team"], row["dearest_service"], row["dearest_model"])
        assert groups[dearest] == max(groups.values())
        assert is_near(row["cost_of_these_usd"], groups[dearest])


def test_which_errors_are_new(ask: Any, sent: Fortnight) -> None:
    failed = sent.usage[sent.usage.errors > 0]
    ago = np.array([(sent.today - day).days for day in failed.day])
    key = ["provider", "error_type", "status_code"]
    recent, before = (failed[span].groupby(key).size().to_dict() for span in (ago < 7, (ago >= 7) & (ago < 14)))
    first = failed.groupby(key).day.min().to_dict()
    answers = ask("which_errors_are_new")
    assert len(answers) == min(12, len(recent)) > 4
    assert [row["errors"] for row in answers] == sorted(recent.values(), reverse=True)[:12]
    for row in answers:
        kind = tuple(row[name] for name in key)
        found = (row["errors"], row["errors_before"], row["first_seen_on"])
        assert found == (recent[kind], before.get(kind, 0), first[kind])


def test_what_do_we_charge_each_team(ask: Any, sent: Fortnight) -> None:
    answers = ask("what_do_we_charge_each_team")
    events = sent.events.assign(month=[day.replace(day=1) for day in sent.events.day])
    groups = dict(list(events.groupby(["month", "team"])))
    assert {(row["month_start"], row["team"]) for row in answers} == set(groups)
    late_month = (sent.today - timedelta(days=LATE_DAYS_AGO)).replace(day=1)
    for row in answers:
        mine = groups[row["month_start"], row["team"]]
        assert (row["requests"], row["unpriced_requests"]) == (len(mine), mine.cost.isna().sum())
        assert is_near(row["cost_usd"], cost_of(mine))
        assert (row["list_cost_usd"], row["reported_cost_usd"], row["corrections"]) == (row["cost_usd"], None, 0)
        is_late = row["month_start"] == late_month
        assert row["late_changes_of_month"] == is_late
        assert is_near(row["late_change_of_month_usd"], float(events.tail(LATE_EVENTS).cost.sum()) if is_late else 0.0)


def test_which_teams_spend_more(ask: Any, sent: Fortnight) -> None:
    ago = np.array([(sent.today - day).days for day in sent.events.day])
    answers = ask("which_teams_spend_more")
    assert {row["team"] for row in answers} == set(sent.events.team)
    for row in answers:
        is_mine = (sent.events.team == row["team"]).to_numpy()
        now, before = sent.events[is_mine & (ago < 7)], sent.events[is_mine & (ago >= 7) & (ago < 14)]
        assert (row["requests"], row["requests_before"]) == (len(now), len(before))
        assert is_near(row["cost_usd"], cost_of(now))
        assert is_near(row["cost_before_usd"], cost_of(before))
        # As if as large a share of the requests had had a known cost before as has now.
        each, share = before.cost.mean(), now.cost.notna().mean()
        assert is_near(row["by_more_requests_usd"], (len(now) - len(before)) * share * each)
        assert is_near(row["by_dearer_requests_usd"], now.cost.notna().sum() * (now.cost.mean() - each))
        parts = row["by_more_requests_usd"] + row["by_dearer_requests_usd"] + row["by_known_costs_usd"]
        assert float(parts) == pytest.approx(float(row["change_usd"]), abs=0.016)
    changes = [row["change_usd"] for row in answers]
    assert changes == sorted(changes, reverse=True)


def test_which_services_got_slower(ask: Any, sent: Fortnight) -> None:
    events = sent.events.dropna(subset="latency_ms")
    week = np.array([monday(day) for day in events.day])
    this, last = (events[week == monday(sent.today) - timedelta(days=ago)].groupby("service") for ago in (0, 7))
    expected = pd.DataFrame({"this": this.latency_ms.quantile(0.95), "last": last.latency_ms.quantile(0.95)}).dropna()
    answers = ask("which_services_got_slower")
    assert {row["service"] for row in answers} == set(expected.index)
    assert len(answers) > 0
    for row in answers:
        mine = expected.loc[row["service"]]
        assert row["requests_last_week"] == last.size()[row["service"]]
        assert row["requests_this_week"] == this.size()[row["service"]]
        assert row["p95_ms_this_week"] == pytest.approx(mine["this"], abs=0.51)
        assert row["p95_ms_last_week"] == pytest.approx(mine["last"], abs=0.51)
        assert float(row["change_percent"]) == pytest.approx(100 * (mine["this"] / mine["last"] - 1), abs=0.051)
    changes = [row["change_percent"] for row in answers]
    assert changes == sorted(changes, reverse=True)


def test_which_api_keys_went_silent(ask: Any, sent: Fortnight) -> None:
    per_key = sent.requests.groupby("key").day.agg(["min", "max", "size"])
    silent = per_key[per_key["max"] <= sent.today - timedelta(days=7)].sort_values("size", ascending=False)
    assert list(silent.index) == ["key-left", "key-gone"]
    assert [tuple(row.values()) for row in ask("which_api_keys_went_silent")] == [
        (key, row["min"], row["max"], (sent.today - row["max"]).days, row["size"]) for key, row in silent.iterrows()
    ]


def test_which_api_keys_fail_most(ask: Any, sent: Fortnight) -> None:
    per_key = sent.requests.groupby("key").failed.agg(["size", "sum", "mean"])
    often = per_key[per_key["size"] >= 100].sort_values("mean", ascending=False)
    assert 1 < len(often) < len(per_key)
    answers = ask("which_api_keys_fail_most")
    assert [(row["api_key_id"], row["requests"], row["failed_requests"]) for row in answers] == [
        (key, row["size"], row["sum"]) for key, row in often.iterrows()
    ]
    assert [float(row["failed_percent"]) for row in answers] == pytest.approx(list(100 * often["mean"]), abs=0.051)


def test_which_providers_fail(ask: Any, sent: Fortnight) -> None:
    has_failed = sent.events.status_code >= 400
    ago = np.array([(sent.today - day).days for day in sent.events.day])
    now = has_failed[ago < 7].groupby(sent.events.provider).agg(["size", "mean"])
    before = has_failed[(ago >= 7) & (ago < 14)].groupby(sent.events.provider).mean()
    answers = ask("which_providers_fail")
    assert {row["provider"]: row["requests"] for row in answers} == now["size"].to_dict()
    for row in answers:
        assert float(row["failed_percent"]) == pytest.approx(100 * now["mean"][row["provider"]], abs=0.0051)
        assert float(row["failed_percent_before"]) == pytest.approx(100 * before[row["provider"]], abs=0.0051)


def test_does_the_issue_backlog_grow(ask: Any, sent: Fortnight) -> None:
    created = pd.to_datetime(sent.issues.created).dt.date
    resolved = pd.to_datetime(sent.issues.resolved).dt.date
    took = (pd.to_datetime(sent.issues.resolved) - pd.to_datetime(sent.issues.created)) / pd.Timedelta(days=1)
    answers = ask("does_the_issue_backlog_grow")
    assert [row["week_start"] for row in answers] == [
        monday(sent.today - timedelta(days=1)) - timedelta(days=7 * ago) for ago in range(6)
    ]
    for row in answers:
        last = min(row["week_start"] + timedelta(days=6), sent.today - timedelta(days=1))
        is_in = [row["week_start"] <= day <= last for day in created]
        was_resolved = [not pd.isna(day) and row["week_start"] <= day <= last for day in resolved]
        assert (row["created_issues"], row["resolved_issues"]) == (sum(is_in), sum(was_resolved))
        assert row["backlog_change"] == sum(is_in) - sum(was_resolved)
        is_open = [
            begun <= last and (pd.isna(done) or done > last) for begun, done in zip(created, resolved, strict=True)
        ]
        assert row["open_issues"] == sum(is_open)
        week = took[[not pd.isna(day) and monday(day) == row["week_start"] for day in resolved]]
        if len(week):
            assert float(row["median_days_to_resolve"]) == pytest.approx(week.median(), abs=0.051)
        else:
            assert row["median_days_to_resolve"] is None


def test_which_issues_are_popular(ask: Any, sent: Fortnight) -> None:
    answers = ask("which_issues_are_popular")
    ranking_date = sent.today
    recent = sent.issues[[timedelta() <= ranking_date - at.date() < timedelta(days=7) for at in sent.issues.created]]
    comments = sent.comments.groupby("issue").size()
    score = recent.views + recent.id.map(comments).fillna(0).astype(int)
    expected = recent.assign(score=score).sort_values(["score", "created", "id"], ascending=[False, False, True])
    assert len(expected) > 3
    assert [tuple(row.values()) for row in answers] == [
        (ranking_date, rank, row.id, f"Issue {row.id}", row.score)
        for rank, row in enumerate(expected.head(10).itertuples(), 1)
    ]


def test_which_merchants_grow(ask: Any, sent: Fortnight) -> None:
    counts = sent.merchants.pivot_table(index="merchant", columns="day", values="count")
    before, after = (counts[sent.today - timedelta(days=ago)] for ago in (2, 1))
    answers = {row["merchant_id"]: row for row in ask("which_merchants_grow")}
    assert list(answers) == ["shop-a", "shop-b", "shop-new"]
    for merchant, row in answers.items():
        assert row["yesterday"] == after[merchant]
        growth = 100 * (after[merchant] / before[merchant] - 1)
        assert as_float(row["growth_percent"]) == (None if pd.isna(growth) else pytest.approx(growth, abs=0.051))


def test_how_fresh_is_everything(ask: Any, sent: Fortnight) -> None:
    answers = {row["table_name"]: row for row in ask("how_fresh_is_everything")}
    yesterday = sent.today - timedelta(days=1)
    assert {name: row["newest_complete_day"] for name, row in answers.items()} == {
        "analytics.usage_hourly": answers["analytics.usage_hourly"]["newest_complete_day"],
        "analytics.usage_daily": yesterday,
        "analytics.usage_weekly": monday(sent.today) - timedelta(days=1),
        "analytics.usage_monthly": newest_month_end(sent),
        "usage.api_key_daily": yesterday,
        "usage.provider_daily": yesterday,
        "usage.token_daily": yesterday,
        "usage.merchant_usage": yesterday,
        "stats.daily_issue_stats": yesterday,
        **{f"stats.popular_{name}": None for name in ("models", "models_by_tokens", "services")},
        "stats.popular_services_by_tokens": None,
        "stats.popular_api_keys": None,
        "stats.popular_issues": None,
    }, "a ranking of today is not complete yet"
    assert not any(row["closed_windows_waiting"] for row in answers.values())
    late = {name: row["change_of_requests"] for name, row in answers.items() if row["corrected_windows"]}
    assert late["analytics.usage_daily"] == LATE_EVENTS
    # An hour that had nothing was not rolled up before, so it is new and not corrected.
    hours = sent.events["at"].dt.floor("h")
    assert late["analytics.usage_hourly"] == int(hours[-LATE_EVENTS:].isin(hours[:-LATE_EVENTS]).sum()) > 0
    assert answers["analytics.usage_daily"]["corrected_windows"] == 1
    is_closed_week = monday(sent.today - timedelta(days=LATE_DAYS_AGO)) < monday(sent.today)
    assert ("analytics.usage_weekly" in late) == is_closed_week


def newest_month_end(sent: Fortnight) -> date | None:
    """Only a month that the fortnight reaches was rolled up."""
    end = sent.today.replace(day=1) - timedelta(days=1)
    return end if end >= sent.today - timedelta(days=DAYS - 1) else None

"""Each query of deploy/grafana/usage.json, asked as the analyst's role, with macros and variables put in as Grafana does."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from usage_pipeline_tests.end_to_end.rigs.usage_frames import month_of
from usage_pipeline_tests.reporting.reporting_rig import DAYS, Fortnight
from usage_pipeline_tests.rigs.places import PROJECT

DASHBOARD = json.loads((PROJECT / "deploy" / "grafana" / "usage.json").read_text(encoding="utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"}
Chosen = Mapping[str, list[str]]
Rows = list[dict[str, Any]]
Ask = Callable[..., Rows]


def as_grafana_asks(sql: str, chosen: Chosen, first: datetime, until: datetime) -> str:
    """Variables first: all of one is its own value for that, as it stands. Then the macros of its PostgreSQL data source."""
    for name, variable in VARIABLES.items():
        quoted = ",".join("'" + value.replace("'", "''") + "'" for value in chosen.get(name, []))
        sql = sql.replace(f"${{{name}:sqlstring}}", quoted or variable["allValue"])
    start, end = (at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for at in (first, until))
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN '{start}' AND '{end}'", sql)
    sql = sql.replace("$__timeFrom()", f"'{start}'").replace("$__timeTo()", f"'{end}'")
    assert "$" not in sql, "a macro or variable that is not known here"
    return sql


@pytest.fixture
def ask(analyst: psycopg.Connection, sent: Fortnight) -> Ask:
    """The rows of a panel, of all days that were sent unless another first day is given."""

    def asked(title: str, *, days: int = DAYS, **chosen: list[str]) -> Rows:
        until = datetime.now(UTC)
        first = datetime.combine(sent.today - timedelta(days=days - 1), time(), UTC)
        [target] = PANELS[title]["targets"]
        with analyst.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(as_grafana_asks(target["rawSql"], chosen, first, until)).fetchall()

    return asked


@pytest.mark.parametrize("title", PANELS)
def test_each_panel_has_data_in_the_form_that_it_draws(title: str, ask: Ask) -> None:
    rows = ask(title)
    assert rows
    if PANELS[title]["targets"][0]["format"] == "time_series":
        assert next(iter(rows[0])) == "time"
        assert all(isinstance(row["time"], datetime) for row in rows)
        assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
        numbers = [value for row in rows for name, value in row.items() if name not in ("time", "metric")]
        assert {type(value) for value in numbers} <= {float, type(None)}
        assert any(numbers)


@pytest.mark.parametrize("title", PANELS)
@pytest.mark.parametrize("chosen", [{"team": ["search", "it's"]}, {"service": ["chat"]}, {"team": ["nobody"]}])
def test_each_panel_answers_whatever_is_chosen(title: str, chosen: dict[str, list[str]], ask: Ask) -> None:
    names = {name for name in chosen if f"${{{name}:" in PANELS[title]["targets"][0]["rawSql"]}
    rows = ask(title, **chosen)
    if names and chosen["team" if "team" in chosen else "service"] == ["nobody"]:
        assert not any(value for row in rows for value in row.values())
    for name in names & set(rows[0] if rows else ()):
        assert {row[name] for row in rows} <= set(chosen[name])


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_offer_what_is_there(name: str, analyst: psycopg.Connection, sent: Fortnight) -> None:
    values = [value for (value,) in analyst.execute(VARIABLES[name]["query"])]
    assert values == sorted(set(sent.usage[name]))


def test_cost_is_that_of_the_events_by_team_and_day(ask: Ask, sent: Fortnight) -> None:
    events = sent.usage.dropna(subset="cost_usd")
    expected = {key: float(sum(mine, Decimal(0))) for key, mine in events.groupby(["day", "team"]).cost_usd}
    found = {(row["time"].date(), row["metric"]): row["cost_usd"] for row in ask("Cost by team")}
    assert {key: cost for key, cost in found.items() if cost is not None} == pytest.approx(expected)
    days = 3
    recent = {key: cost for key, cost in expected.items() if key[0] > sent.today - timedelta(days=days)}
    found = {(row["time"].date(), row["metric"]): row["cost_usd"] for row in ask("Cost by team", days=days)}
    assert {key: cost for key, cost in found.items() if cost is not None} == pytest.approx(recent)
    [total] = ask("Cost", service=["chat"])
    chat = events[events.service == "chat"].cost_usd
    assert total["cost_usd"] == pytest.approx(float(sum(chat, Decimal(0))))


def test_tokens_add_up_and_errors_are_those_of_the_events(ask: Ask, sent: Fortnight) -> None:
    tokens = sent.usage.groupby("day").total_tokens.sum().to_dict()
    assert {
        row["time"].date(): sum(value for name, value in row.items() if name != "time") for row in ask("Tokens")
    } == tokens
    failed = sent.usage[sent.usage.errors > 0]
    found = {(row["time"].date(), row["metric"]): row["errors"] for row in ask("Errors by type")}
    assert found == {
        (day, f"{kind or 'no type'} {status}"): len(mine)
        for (day, kind, status), mine in failed.groupby(["day", "error_type", "status_code"])
    }


def test_models_and_months_are_those_of_the_events(ask: Ask, sent: Fortnight) -> None:
    models = {(row["provider"], row["model"]): row["requests"] for row in ask("Top models", team=["search"])}
    searched = sent.usage[sent.usage.team == "search"]
    assert models == searched.groupby(["provider", "model"]).size().to_dict()
    # A month that the span touches is whole.
    months = {(row["month"], row["team"]) for row in ask("Charge-back", days=1)}
    this_month = month_of(datetime.combine(sent.today, time()))
    assert months == {(str(this_month), team) for team in set(sent.usage[sent.usage.month == this_month].team)}


def test_panels_do_not_overlap_and_have_an_id_each() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: list[tuple[int, int]] = []
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells += [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(set(cells)) == len(cells)

"""Exploring over HTTP: rights, refusals, pages, files, and as of when an answer is."""

import csv
import io
from datetime import datetime, timedelta
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from usage_pipeline.api.explore import changes, routes
from usage_pipeline.bindings import Bounds
from usage_pipeline.explore import limits
from usage_pipeline.explore.sources import GRAINS
from usage_pipeline.rollups.window_tables import GROUP
from usage_pipeline_tests.api.explore.conftest import FIRST, LAST, Explored
from usage_pipeline_tests.rigs.service import expect_problem

DAYS = {"from": str(FIRST), "to": str(LAST)}


def explore(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    answer = client.get("/api/usage/explore", params={**DAYS, **parameters})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.fixture(scope="module")
def reader(explored: Explored) -> httpx.Client:
    return explored.client("read")


@pytest.fixture(scope="module")
def person(explored: Explored) -> httpx.Client:
    return explored.client("read", "users")


def test_by_default_it_is_requests_tokens_and_cost_by_day(reader: httpx.Client, explored: Explored) -> None:
    found = explore(reader)
    assert (found["grain"], found["timezone"], found["rows"], found["next"]) == ("day", "UTC", 3, None)
    assert [set(item) for item in found["items"]] == [{"period", "requests", "totalTokens", "costUsd"}] * 3
    assert [item["period"] for item in found["items"]] == ["2025-06-10", "2025-06-11", "2025-06-12"]
    assert sum(item["requests"] for item in found["items"]) == len(explored.events)


@pytest.mark.parametrize(
    "parameters",
    [{"group_by": "user"}, {"filter.user": "user-1"}, {"group_by": "tag:project"}, {"filter.tag:project": "a"}],
)
def test_users_and_tags_need_a_scope_of_their_own(
    explored: Explored, reader: httpx.Client, person: httpx.Client, parameters: dict[str, str]
) -> None:
    answer = reader.get("/api/usage/explore", params=parameters)
    assert "a token with the scope users" in expect_problem(answer, 403, "forbidden")
    explore(person, **parameters)
    # Who is bound to users knows them.
    bound = explored.client("read", bounds=Bounds(users=("user-1", "user-2")))
    if "user" in str(parameters):
        items = explore(bound, group_by="user", grain="total")["items"]
        assert {item["user"] for item in items} == {"user-1", "user-2"}


@pytest.mark.parametrize(
    ("parameters", "kind", "said"),
    [
        ({"group_by": "color"}, "invalid-parameter", "group_by: expected one of team, service"),
        ({"group_by": "team,team"}, "invalid-parameter", "each name once"),
        ({"metrics": "cost"}, "invalid-parameter", "metrics: expected some of requests"),
        ({"grain": "year"}, "invalid-parameter", "grain: expected one of hour, day, week, month, total"),
        ({"order": "-team"}, "invalid-parameter", "order: expected one of requests"),
        ({"compare": "next"}, "invalid-parameter", "compare: expected one of previous, month_before"),
        ({"limit": "10001"}, "invalid-parameter", "limit: expected 1 to 10000"),
        ({"after": "x"}, "invalid-parameter", "after: expected the cursor"),
        ({"filter.size": "1"}, "invalid-parameter", "filter: expected one of team"),
        ({"format": "csv", "limit": "1"}, "invalid-parameter", "limit: expected it with format=json only"),
        ({"from": "2020-01-01", "to": "2024-01-01"}, "invalid-parameter", "at most 1100 days"),
        ({"group_by": "user,api_key"}, "cannot-be-grouped", "expected one of user, api_key, error_type and tag"),
        ({"group_by": "error_type", "metrics": "requests"}, "cannot-be-grouped", "only the metric errors"),
        ({"group_by": "user", "grain": "hour"}, "cannot-be-grouped", "grain=day or longer has it"),
        ({"metrics": "latency_p95_ms", "grain": "hour"}, "cannot-be-grouped", "group_by=team,service,provider,model"),
        ({"group_by": "tag:projekt"}, "invalid-parameter", "'tag:projekt': expected a tag of ROLLUP_TAGS"),
        ({"filter.tag:50%": "a", "format": "csv"}, "invalid-parameter", "expected a tag of ROLLUP_TAGS"),
        ({"group_by": "service,tag:project"}, "cannot-be-grouped", "a tag with team, provider and model only"),
    ],
)
def test_what_cannot_be_answered_says_what_can(
    person: httpx.Client, parameters: dict[str, str], kind: str, said: str
) -> None:
    answer = person.get("/api/usage/explore", params=parameters)
    assert said in expect_problem(answer, 422, kind)


def test_a_question_over_too_many_rows_is_refused_with_what_is_smaller(
    explored: Explored, person: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    explored.postgres.execute("analyze")
    monkeypatch.setattr(limits, "MAX_ROWS_READ", 100)
    answer = person.get("/api/usage/explore", params={**DAYS, "group_by": "user", "grain": "total"})
    assert "ask for at most 2 days" in expect_problem(answer, 422, "too-much-to-read")
    answer = person.get("/api/usage/explore", params={**DAYS, "group_by": ",".join(GROUP), "grain": "hour"})
    assert "of analytics.usage_hourly" in expect_problem(answer, 422, "too-much-to-read")
    monkeypatch.setattr(limits, "MAX_ROWS_READ", 1)
    answer = person.get("/api/usage/explore", params={**DAYS, "group_by": "user"})
    assert expect_problem(answer, 422, "too-much-to-read").endswith(": ask for another grouping")
    monkeypatch.undo()
    monkeypatch.setattr(limits, "MAX_LATENCY_BYTES", dict.fromkeys(GRAINS, 1))
    answer = person.get("/api/usage/explore", params={**DAYS, "metrics": "latency_p95_ms"})
    said = expect_problem(answer, 422, "too-much-to-read")
    assert "bytes of latencies" in said
    assert "days" not in said, "no number of days would do"
    assert "ask without percentiles" in said


def test_a_bound_token_is_not_told_how_much_others_use(explored: Explored, monkeypatch: pytest.MonkeyPatch) -> None:
    explored.postgres.execute("analyze")
    bound = explored.client("read", "users", bounds=Bounds(teams=("team-1",)))
    for limit, parameters in (
        ("MAX_ROWS_READ", {"group_by": "user"}),
        ("MAX_LATENCY_BYTES", {"metrics": "latency_p95_ms"}),
    ):
        monkeypatch.setattr(limits, limit, 1 if limit == "MAX_ROWS_READ" else dict.fromkeys(GRAINS, 1))
        answer = bound.get("/api/usage/explore", params={**DAYS, **parameters})
        said = expect_problem(answer, 422, "too-much-to-read")
        assert "for fewer days" in said
        assert not any(character.isdigit() for character in said)


@pytest.mark.parametrize("path", ["/api/usage/explore", "/api/usage/changes"])
def test_a_question_that_takes_too_long_is_refused_not_told_to_be_sent_again(
    explored: Explored, reader: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for module in (routes, changes):
        monkeypatch.setattr(module, "QUESTION_SECONDS", 1)
    with explored.postgres.transaction():
        explored.postgres.execute("lock table ops.touched_windows in access exclusive mode")
        answer = reader.get(path, params=DAYS)
    assert "answered within 1 s" in expect_problem(answer, 422, "too-much-to-read")


def test_pages_follow_each_other_and_are_the_whole(person: httpx.Client) -> None:
    question = {"group_by": "user,model", "grain": "total", "order": "-cost_usd"}
    whole = explore(person, **question)["items"]
    found: list[Any] = []
    path = None
    while True:
        page = explore(person, **question, limit=7) if path is None else person.get(path).json()
        found += page["items"]
        assert page["rows"] == len(whole)
        if (path := page["next"]) is None:
            break
    assert found == whole
    other = person.get("/api/usage/explore", params={**DAYS, **question, "limit": 7}).json()["next"]
    expect_problem(person.get(other.replace("-cost_usd", "cost_usd")), 422, "invalid-parameter")


def test_files_have_the_rows_of_pages(person: httpx.Client) -> None:
    question = {"group_by": "team,tag:project", "metrics": "requests,cost_usd", "compare": "previous"}
    items = explore(person, **question)["items"]
    answer = person.get("/api/usage/explore", params={**DAYS, **question, "format": "csv"})
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(lines[0]) == [
        *("period", "team", "tag:project", "requests", "costUsd", "previousRequests", "previousCostUsd")
    ]
    assert [(line["period"], line["team"], int(line["requests"]), line["costUsd"]) for line in lines] == [
        (item["period"], item["team"], item["requests"], item["costUsd"] or "") for item in items
    ]
    answer = person.get("/api/usage/explore", params={**DAYS, **question, "format": "parquet"})
    rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [(str(row["period"]), row["requests"]) for row in rows] == [
        (item["period"], item["requests"]) for item in items
    ]


def test_an_answer_says_as_of_when_it_is(explored: Explored, reader: httpx.Client) -> None:
    before = datetime.fromisoformat(explore(reader)["asOf"])
    touched = before - timedelta(hours=3)
    explored.postgres.execute(
        "insert into ops.touched_windows (grain, window_start, touched_at) values ('day', '2025-06-11', %s)", (touched,)
    )
    assert datetime.fromisoformat(explore(reader)["asOf"]) == touched
    # Of other days it is as new as can be, and for who is bound it is a whole hour.
    assert datetime.fromisoformat(explore(reader, **{"from": "2025-06-12"})["asOf"]) > before
    bound = explore(explored.client("read", bounds=Bounds(teams=("team-1",))))["asOf"]
    assert bound.endswith(":00:00Z")
    explored.postgres.execute("delete from ops.touched_windows")


def test_it_says_what_can_be_asked(explored: Explored, reader: httpx.Client, person: httpx.Client) -> None:
    terms = person.get("/api/usage/explore/dimensions").json()
    assert (terms["firstDay"], terms["lastDay"]) == (str(FIRST), str(LAST))
    assert {one["name"]: one["isAllowed"] for one in terms["dimensions"]}["tag:project"]
    limited = {
        one["name"]: one["isAllowed"] for one in reader.get("/api/usage/explore/dimensions").json()["dimensions"]
    }
    assert limited["user"] is False
    assert "tag:project" not in limited
    for one in terms["combinations"]:
        groups = [name for name in one["dimensions"] if name != "tag:*"]
        groups += ["tag:project"] if "tag:*" in one["dimensions"] else []
        for grain in one["grains"]:
            explore(person, group_by=",".join(groups), grain=grain, metrics=",".join(one["metrics"]))


def test_who_is_bound_is_told_of_its_own_tags(explored: Explored) -> None:
    used = {name for event in explored.events if event["team"] == "team-1" for name in event.get("tags", {})}
    assert "project" in used
    explored.postgres.execute(
        "insert into analytics.usage_tag_daily select (jsonb_populate_record(one, "
        """'{"tag": "of others", "team": "others"}')).* from analytics.usage_tag_daily as one limit 1"""
    )
    try:

        def tags(bounds: Bounds | None) -> set[str]:
            client = explored.client("read", "users", bounds=bounds)
            terms = client.get("/api/usage/explore/dimensions").raise_for_status().json()
            return {one["name"] for one in terms["dimensions"] if one["name"].startswith("tag:")}

        assert tags(None) == {"tag:project", "tag:of others"}
        assert tags(Bounds(teams=("team-1",))) == {"tag:project"}
        assert tags(Bounds(teams=("others",))) == {"tag:of others"}
        assert tags(Bounds(teams=("nobody",))) == set()
        # Tags are not rolled up by service or user.
        assert tags(Bounds(services=("chat",))) == set()
        assert tags(Bounds(teams=("team-1",), users=("user-1",))) == set()
    finally:
        explored.postgres.execute("delete from analytics.usage_tag_daily where tag = 'of others'")

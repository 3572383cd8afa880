"""Random questions over HTTP: each answer equals DuckDB's over the events as they were sent, or no combination allows it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline.bindings import Bounds
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.api.explore.events_in_duckdb import (
    GROUPS,
    METRICS,
    MODELS,
    PERIODS,
    in_duckdb,
    random_events,
)
from usage_pipeline_tests.rigs.service import expect_problem, new_token, serving
from usage_pipeline_tests.rollups.trace_rig import roll, store, windows_of

# Changes of clocks in Havana and in Vienna are in the spans, and changes of months and of weeks.
FIRST = date(2025, 2, 20)
DAYS = 60
SPANS = [(datetime(2025, 2, 25, tzinfo=UTC), 15), (datetime(2025, 3, 26, tzinfo=UTC), 9)]
NOW = datetime(2025, 5, 2, 12, tzinfo=UTC)
VALUES = {
    "team": ["team-0", "team-1", "team-2", "nobody"],
    "service": ["chat", "search", "Ölmühle"],
    "user": [f"user-{number}" for number in range(25)],
    "provider": ["openai", "anthropic", "google", "acme"],
    "model": [model for _, model in MODELS],
    "api_key": ["key-0", "key-3", ""],
    "error_type": ["timeout", "HTTP 429"],
    "tag:project": ["a", "it's"],
}
BOUND = {"team": ["team-1", "team-2"], "service": ["chat", "search"]}


@dataclass(frozen=True)
class Asking:
    """A service with the events, and the same events in DuckDB."""

    client: httpx.Client
    bound: httpx.Client
    events: duckdb.DuckDBPyConnection
    combinations: list[Mapping[str, list[str]]]


@pytest.fixture(scope="module", params=["Europe/Vienna", "America/Havana"])
def asking(request, servers, databases) -> Iterator[Asking]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    url = servers.postgres.url(name)
    settings = load_settings(
        database_url=url,
        redis_url=servers.redis_url,
        usage_timezone=request.param,
        retention_days=300,
        rollup_tags="project",
    )
    events = [event for first, days in SPANS for event in random_events(first, days, 60 * days, seed=days)]
    with psycopg.connect(url, autocommit=True) as postgres:
        postgres.execute("update ops.calendar set time_zone = %s", (request.param,))
        store(postgres, events, settings, NOW)
        roll(postgres, windows_of(events, settings), settings, NOW)
        tokens = (
            new_token(postgres, "read", "users"),
            new_token(
                postgres, "read", "users", bounds=Bounds(teams=("team-1", "team-2"), services=("chat", "search"))
            ),
        )
        with serving(settings) as service:
            clients = [
                httpx.Client(
                    base_url=service.client.base_url,
                    headers={"Authorization": f"Bearer {token}"},
                    timeout=60,
                    trust_env=False,
                )
                for token in tokens
            ]
            terms = clients[0].get("/api/usage/explore/dimensions").raise_for_status().json()
            yield Asking(*clients, in_duckdb(events, settings.timezone), terms["combinations"])
            for client in clients:
                client.close()
    databases.drop(name)


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    first = FIRST + timedelta(days=draw(st.integers(-3, DAYS)))
    kept = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2, unique=True))
    return {
        "from": first,
        "to": first + timedelta(days=draw(st.sampled_from([0, 1, 6, 27, 30, 60]))),
        "grain": draw(st.sampled_from([*PERIODS, "total"])),
        "group_by": draw(st.lists(st.sampled_from(sorted(GROUPS)), max_size=3, unique=True)),
        "metrics": draw(st.lists(st.sampled_from(sorted(METRICS)), min_size=1, max_size=4, unique=True)),
        "filters": {
            name: draw(st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=3, unique=True)) for name in kept
        },
        "compare": draw(st.sampled_from([None, None, "previous", "month_before"])),
        "is_bound": draw(st.booleans()),
    }


def of_april(*group_by: str) -> dict[str, Any]:
    """April by day against March, whose last two days are both beside the 30th."""
    return {
        "from": date(2025, 4, 1),
        "to": date(2025, 4, 30),
        "grain": "day",
        "group_by": list(group_by),
        "metrics": ["latency_p50_ms", "latency_p95_ms", "distinct_users", "requests"],
        "filters": {},
        "compare": "month_before",
        "is_bound": False,
    }


@given(questions())
@example(of_april())
@example(of_april("team"))
@example(of_april("team", "service", "provider", "model"))
@hypothesis_settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_each_answer_equals_that_of_another_database(asking: Asking, question: dict[str, Any]) -> None:
    parameters: list[tuple[str, str]] = [
        ("from", str(question["from"])),
        ("to", str(question["to"])),
        ("grain", question["grain"]),
        *([("group_by", ",".join(question["group_by"]))] if question["group_by"] else []),
        ("metrics", ",".join(question["metrics"])),
        ("limit", "10000"),
        *((f"filter.{name}", value) for name, values in question["filters"].items() for value in values),
        *([("compare", question["compare"])] if question["compare"] else []),
    ]
    client = asking.bound if question["is_bound"] else asking.client
    answer = client.get("/api/usage/explore", params=parameters)
    named = {*question["group_by"], *question["filters"]}
    if not is_allowed(asking, question, named):
        expect_problem(answer, 422, "cannot-be-grouped")
        return
    if question["is_bound"] and not is_allowed(asking, question, named | set(BOUND)):
        expect_problem(answer, 403, "bound-token")
        return
    assert answer.status_code == 200, answer.text
    document = answer.json()
    bounds = BOUND if question["is_bound"] else {}
    expected = rows_of(asking.events, question, question["from"], question["to"], "day", bounds)
    if question["compare"] is None:
        assert_equal(question, document["items"], expected)
        return
    first, last = (date.fromisoformat(document["previous"][end]) for end in ("from", "to"))
    assert (first, last) == compared_days(question)
    assert {
        key: item for key, item in keyed(question, document["items"]).items() if is_there(item, question)
    }.keys() <= (expected.keys())
    if question["grain"] != "hour":
        moved = f"(day + {(question['from'] - first).days})"
        if question["compare"] == "month_before":
            a_month_on = "cast(day + interval 1 month as date)"
            moved = f"least(greatest({a_month_on}, date '{question['from']}'), date '{question['to']}')"
        before = rows_of(asking.events, question, first, last, moved, bounds)
        found = keyed(question, document["items"])
        assert found.keys() == expected.keys() | before.keys()
        for key, item in found.items():
            if key in before:
                assert_equal_values(question, item["previous"], before[key])
            else:
                assert item["previous"] is None
            if key in expected:
                assert_equal_values(question, item, expected[key])


def is_allowed(asking: Asking, question: Mapping[str, Any], named: set[str]) -> bool:
    families = {"tag:*" if name.startswith("tag:") else name for name in named}
    if question["grain"] == "hour" and any(name.startswith(("latency", "distinct")) for name in question["metrics"]):
        return {"team", "service", "provider", "model"} <= set(question["group_by"]) and families <= {
            *("team", "service", "provider", "model")
        }
    return any(
        families <= set(one["dimensions"])
        and question["grain"] in one["grains"]
        and set(question["metrics"]) <= set(one["metrics"])
        for one in asking.combinations
    )


def compared_days(question: Mapping[str, Any]) -> tuple[date, date]:
    """As a person counts: the days just before, or the dates of the month before; of whole months, whole months."""
    first, last = question["from"], question["to"]
    if question["compare"] == "previous":
        return first - (last - first) - timedelta(days=1), first - timedelta(days=1)
    if first.day == 1 and (last + timedelta(days=1)).day == 1:
        return month_before(first), last.replace(day=1) - timedelta(days=1)
    return month_before(first), month_before(last)


def month_before(day: date) -> date:
    last_of_month = day.replace(day=1) - timedelta(days=1)
    return last_of_month if day.day > last_of_month.day else last_of_month.replace(day=day.day)


def rows_of(
    events: duckdb.DuckDBPyConnection,
    question: Mapping[str, Any],
    first: date,
    last: date,
    day: str,
    bounds: Mapping[str, list[str]],
) -> dict[tuple[Any, ...], list[Any]]:
    grain = question["grain"]
    keys = [] if grain == "total" else [PERIODS[grain].replace("day", day, 1)]
    keys += [GROUPS[name] for name in question["group_by"]]
    kept, arguments = ["day between ? and ?"], [first, last]
    for name, values in [*question["filters"].items(), *bounds.items()]:
        kept.append(f"coalesce({GROUPS[name]}, '') in ({', '.join('?' * len(values))})")
        arguments += values
    if any(name.startswith("tag:") for name in question["group_by"]):
        kept.append("project is not null")
    if "error_type" in {*question["group_by"], *question["filters"]}:
        kept.append("is_error")
    shown = [*keys, "count(*)", *(METRICS[name] for name in question["metrics"])]
    query = f"select {', '.join(shown)} from events where {' and '.join(kept)}"
    if keys:
        query += f" group by {', '.join(map(str, range(1, len(keys) + 1)))}"
    rows = events.execute(query, arguments).fetchall()
    # Without groups there is a row of nothing, too.
    return {key_of(row[: len(keys)]): list(row[len(keys) + 1 :]) for row in rows if row[len(keys)]}


def keyed(question: Mapping[str, Any], items: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    members = [] if question["grain"] == "total" else ["period"]
    members += [{"api_key": "apiKey", "error_type": "errorType"}.get(name, name) for name in question["group_by"]]
    found = {tuple(item[name] for name in members): item for item in items}
    assert len(found) == len(items)
    return found


def key_of(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        f"{value:%Y-%m-%dT%H:%M:%SZ}"
        if isinstance(value, datetime)
        else str(value)
        if isinstance(value, date)
        else value
        for value in values
    )


def is_there(item: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    return bool(question["metrics"] == ["requests"] and item["requests"])


def assert_equal(
    question: Mapping[str, Any], items: list[dict[str, Any]], expected: Mapping[tuple[Any, ...], list[Any]]
) -> None:
    found = keyed(question, items)
    assert found.keys() == expected.keys()
    for key, item in found.items():
        assert_equal_values(question, item, expected[key])


def assert_equal_values(question: Mapping[str, Any], item: Mapping[str, Any], expected: list[Any]) -> None:
    for name, value in zip(question["metrics"], expected, strict=True):
        came = item[camel(name)]
        if value is None:
            assert came is None, name
        elif isinstance(value, Decimal):
            assert Decimal(came) == value, name
        elif isinstance(value, float):
            assert float(came) == pytest.approx(value, rel=1e-9), name
        else:
            assert came == value, name


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other[0].upper() + other[1:] for other in others)

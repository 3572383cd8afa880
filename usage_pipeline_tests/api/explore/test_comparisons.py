"""Comparisons in zones whose clocks change: items are of the days asked for, and their `previous` is all of the other days."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline.settings import load_settings
from usage_pipeline_tests.api.explore.conftest import Explored
from usage_pipeline_tests.rigs.service import serving
from usage_pipeline_tests.rigs.windows import event_at
from usage_pipeline_tests.rollups.trace_rig import roll, store, windows_of

NOW = datetime(2025, 12, 20, 12, tzinfo=UTC)
# Clocks change in each of the zones: in the night, at midnight, over midnight, and where hours begin at half of UTC's.
ZONES = {
    "America/New_York": (date(2025, 3, 9), date(2025, 11, 2)),
    "America/Havana": (date(2025, 3, 9), date(2025, 11, 2)),
    "Africa/Cairo": (date(2025, 4, 25), date(2025, 10, 30)),
    "America/St_Johns": (date(2025, 3, 9), date(2025, 11, 2)),
}
GRAINS = ("hour", "day", "week", "month", "total")


@pytest.fixture(scope="module", params=sorted(ZONES))
def explored(request, servers, databases) -> Iterator[Explored]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    url = servers.postgres.url(name)
    settings = load_settings(
        database_url=url, redis_url=servers.redis_url, usage_timezone=request.param, retention_days=3_000
    )
    chance = random.Random(7)
    moments = [
        datetime.combine(changed + timedelta(days=days), time(), settings.timezone).astimezone(UTC)
        + timedelta(minutes=chance.randrange(25 * 60))
        for changed in ZONES[request.param]
        for days in (*range(-3, 4), 27, 28, 29, 30, 31, 32)
        for _ in range(14)
    ]
    # On the days themselves, in the hours when clocks change.
    moments += [
        datetime.combine(changed, time(), settings.timezone).astimezone(UTC) + timedelta(minutes=20 * place - 120)
        for changed in ZONES[request.param]
        for place in range(30)
    ]
    events = [event_at(at, team=chance.choice("ab"), user_id=chance.choice("xyz"), latency_ms=5) for at in moments]
    with psycopg.connect(url, autocommit=True) as postgres:
        postgres.execute("update ops.calendar set time_zone = %s", (request.param,))
        store(postgres, events, settings, NOW)
        roll(postgres, windows_of(events, settings), settings, NOW)
        with serving(settings) as service:
            yield Explored(service.client.base_url, postgres, settings, events)
    databases.drop(name)


def explore(explored: Explored, **parameters: Any) -> dict[str, Any]:
    answer = explored.client("read", "users").get("/api/usage/explore", params={**parameters, "limit": 10_000})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def days_before(first: date, last: date, compare: str) -> tuple[date, date]:
    """As a person counts: the days just before; the dates of the month before, and of whole months the whole months."""
    if compare == "previous":
        return first - (last - first) - timedelta(days=1), first - timedelta(days=1)
    if first.day == 1 and (last + timedelta(days=1)).day == 1:
        return month_before(first), last.replace(day=1) - timedelta(days=1)
    return month_before(first), month_before(last)


def month_before(day: date) -> date:
    last_of_month = day.replace(day=1) - timedelta(days=1)
    return last_of_month if day.day > last_of_month.day else last_of_month.replace(day=day.day)


@pytest.mark.parametrize(
    ("asked", "before"),
    [
        ("2025-06-30 2025-06-30", "2025-05-30 2025-05-30"),
        ("2025-06-24 2025-06-30", "2025-05-24 2025-05-30"),
        ("2025-02-15 2025-02-28", "2025-01-15 2025-01-28"),
        ("2025-02-01 2025-02-28", "2025-01-01 2025-01-31"),
        ("2025-06-01 2025-06-30", "2025-05-01 2025-05-31"),
        ("2025-05-01 2025-06-30", "2025-04-01 2025-05-31"),
        ("2025-06-01 2025-06-29", "2025-05-01 2025-05-29"),
        ("2025-03-30 2025-03-31", "2025-02-28 2025-02-28"),
    ],
)
def test_the_month_before_of_a_whole_month_is_whole_and_of_other_days_the_same_dates(
    explored: Explored, asked: str, before: str
) -> None:
    first, last = asked.split()
    shown = explore(explored, **{"from": first, "to": last, "compare": "month_before"})["previous"]
    assert f"{shown['from']} {shown['to']}" == before


def period_of(grain: str, day: date) -> str:
    starts = {"week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}
    return str(starts.get(grain, day))


@given(
    place=st.integers(0, 1),
    offset=st.integers(-4, 34),
    days=st.sampled_from([1, 2, 3, 7, 28, 30, 31]),
    grain=st.sampled_from(GRAINS),
    compare=st.sampled_from(["previous", "month_before"]),
    is_by_team=st.booleans(),
)
@hypothesis_settings(max_examples=120, suppress_health_check=list(HealthCheck), deadline=None)
def test_items_are_of_the_days_asked_for_and_together_have_all_of_the_days_compared_with(
    explored: Explored, place: int, offset: int, days: int, grain: str, compare: str, is_by_team: bool
) -> None:
    zone = explored.settings.timezone
    first = ZONES[zone.key][place] + timedelta(days=offset)
    last = first + timedelta(days=days - 1)
    group = {"group_by": "team"} if is_by_team else {}
    asked = {"from": str(first), "to": str(last), "grain": grain, "compare": compare, "metrics": "requests", **group}
    document = explore(explored, **asked)
    before = days_before(first, last, compare)
    assert (document["previous"]["from"], document["previous"]["to"]) == tuple(map(str, before))
    range_of_days = [first + timedelta(days=number) for number in range(days)]
    if grain == "hour":
        shown = {datetime.fromisoformat(item["period"]).astimezone(zone).date() for item in document["items"]}
        assert shown <= set(range_of_days)
    elif grain != "total":
        assert {item["period"] for item in document["items"]} <= {period_of(grain, day) for day in range_of_days}
    local = [
        (datetime.fromisoformat(one["event_time"]).astimezone(zone).date(), one["team"]) for one in explored.events
    ]
    for name, (since, until) in (("asked", (first, last)), ("previous", before)):
        expected = Counter(team if is_by_team else None for day, team in local if since <= day <= until)
        found: Counter[Any] = Counter()
        for item in document["items"]:
            measured = item if name == "asked" else item["previous"]
            found[item.get("team")] += measured["requests"] if measured else 0
        assert +found == expected, name


@given(
    place=st.integers(0, 1),
    offset=st.integers(-3, 32),
    days=st.sampled_from([1, 2, 7]),
    compare=st.sampled_from(["previous", "month_before"]),
)
@hypothesis_settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
def test_hours_are_compared_by_what_the_clock_shows(
    explored: Explored, place: int, offset: int, days: int, compare: str
) -> None:
    zone = explored.settings.timezone
    first = ZONES[zone.key][place] + timedelta(days=offset)
    last = first + timedelta(days=days - 1)
    since, until = days_before(first, last, compare)
    expected: Counter[datetime] = Counter()
    for one in explored.events:
        shown = datetime.fromisoformat(one["event_time"]).astimezone(zone)
        if since <= shown.date() <= until:
            expected[hour_of(day_beside(shown.date(), first, last, since, compare), shown.hour, zone)] += 1
    items = explore(explored, **{"from": str(first), "to": str(last), "grain": "hour", "compare": compare})["items"]
    found = {datetime.fromisoformat(item["period"]): item["previous"]["requests"] for item in items if item["previous"]}
    assert found == expected


def day_beside(day: date, first: date, last: date, since: date, compare: str) -> date:
    if compare == "previous":
        return day + (first - since)
    after = day.replace(day=28) + timedelta(days=4)
    last_of_month = (after.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    return min(max(last_of_month.replace(day=min(day.day, last_of_month.day)), first), last)


def hour_of(day: date, hour: int, zone: ZoneInfo) -> datetime:
    """The hour of that name; the second where there are two of it, and the next one where there is none."""
    first, second = (datetime.combine(day, time(hour), zone).replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return max(first, second)


def test_what_cannot_be_added_is_not_known_where_hours_fall_together(explored: Explored) -> None:
    zone = explored.settings.timezone
    first = ZONES[zone.key][0]
    asked = {"from": str(first), "to": str(first), "grain": "hour", "compare": "previous"}
    question = {**asked, "group_by": "team,service,provider,model", "metrics": "distinct_users,latency_p95_ms"}
    local = [
        (shown.date(), shown.hour, one["team"], one["user_id"])
        for one in explored.events
        if (shown := datetime.fromisoformat(one["event_time"]).astimezone(zone))
    ]
    day = first - timedelta(days=1)
    for item in explore(explored, **question)["items"]:
        if (before := item["previous"]) is None:
            continue
        moment = datetime.fromisoformat(item["period"])
        beside = {
            hour
            for hour in range(24)
            if hour_of(first, hour, zone) == moment and (day, hour) in {one[:2] for one in local}
        }
        hours = {one[1] for one in local if one[0] == day and one[1] in beside and one[2] == item["team"]}
        users = {one[3] for one in local if one[0] == day and one[1] in hours and one[2] == item["team"]}
        assert before["distinctUsers"] == (len(users) if len(hours) == 1 else None)
        assert before["latencyP95Ms"] == (5 if len(hours) == 1 else None)

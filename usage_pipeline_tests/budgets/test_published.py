"""What gateways hear: the recorder's check of a budget, by what the pipeline published in a real Redis."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from usage_recorder import AsyncRecorder, BudgetAnswer, Recorder
from usage_recorder import keys as recorder_keys
from usage_recorder.budget import NO_BUDGET, UNKNOWN_BUDGET

from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.publishing import KEPT_AFTER, publish
from usage_pipeline.budgets.standing import Standing
from usage_pipeline.settings import Settings

# Redis ends keys by its own clock.
NOW = datetime.now(UTC).replace(microsecond=0)
Check = Callable[..., Any]


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now.timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, redis_url: str, clock: Clock) -> Iterator[Check]:
    """Calls a method of one of the two recorders by name, so that every test holds for both."""
    kind = Recorder if request.param == "sync" else AsyncRecorder
    recorder = kind.connect(redis_url, clock=clock, timeout_seconds=5)
    with asyncio.Runner() as runner:

        async def awaited(coroutine: Any) -> Any:
            return await coroutine

        def call(name: str, *arguments: Any) -> Any:
            member = getattr(recorder, name)
            answer = member(*arguments) if callable(member) else member
            return runner.run(awaited(answer)) if inspect.iscoroutine(answer) else answer

        yield call
        call("close")


def standing(
    name: str, used: str, scope: str = "team=search", period: str = "day", unit: str = "usd", limit: str = "10"
) -> Standing:
    budget = budget_of(name, scope, period, limit, unit, None)
    return Standing(budget, budget.window(NOW, ZoneInfo("UTC")), Decimal(used), 0, NOW)


def test_a_budget_is_used_up_when_nothing_is_left(call: Check, settings: Settings) -> None:
    assert call("check_budget", "team=search") == NO_BUDGET
    assert not NO_BUDGET.has_budget
    for used, left, is_used_up in (("0", "10", False), ("9.999999", "0.000001", False), ("10", "0", True)):
        publish(settings, [standing("b", used)])
        ends_at = standing("b", used).window.end
        assert call("check_budget", "team=search") == BudgetAnswer(
            is_used_up=is_used_up,
            is_known=True,
            name="b",
            unit="usd",
            used=Decimal(used),
            limit=Decimal(10),
            left=Decimal(left),
            as_of=NOW,
            ends_at=ends_at,
        )
    publish(settings, [standing("b", "11")])
    assert call("check_budget", "team=search").left == 0
    assert call("failures") == {}


def test_of_several_budgets_of_a_scope_it_is_the_one_that_is_used_most(call: Check, settings: Settings) -> None:
    month = standing("month", "90", period="month", limit="100")
    publish(settings, [standing("day", "5"), month, standing("tokens", "3", unit="tokens")])
    assert call("check_budget", "team=search").name == "month"
    publish(settings, [standing("day", "10"), month])
    answer = call("check_budget", "team=search")
    assert (answer.name, answer.is_used_up) == ("day", True)


def test_a_stale_answer_blocks_nobody_after_its_period(
    call: Check, settings: Settings, redis_client: redis.Redis, clock: Clock
) -> None:
    used_up = standing("b", "10")
    publish(settings, [used_up])
    clock.now = used_up.window.end - timedelta(seconds=1)
    assert call("check_budget", "team=search").is_used_up
    clock.now = used_up.window.end
    assert call("check_budget", "team=search") == UNKNOWN_BUDGET
    # And it is gone a little later.
    ends_at = redis_client.execute_command("PEXPIRETIME" if _knows_expire_time(redis_client) else "PTTL", _key())
    expected = (used_up.window.end + KEPT_AFTER).timestamp() * 1000
    if not _knows_expire_time(redis_client):
        expected -= datetime.now(UTC).timestamp() * 1000
    assert abs(ends_at - expected) < 60_000


def _knows_expire_time(client: redis.Redis) -> bool:
    return int(client.info("server")["redis_version"].split(".")[0]) >= 7


def _key() -> str:
    return recorder_keys.budget("team=search")


def test_of_two_periods_the_one_that_is_over_does_not_count(call: Check, settings: Settings, clock: Clock) -> None:
    day, month = standing("day", "10"), standing("month", "1", period="month")
    publish(settings, [day, month])
    clock.now = day.window.end
    if month.window.end > day.window.end:
        answer = call("check_budget", "team=search")
        assert (answer.name, answer.is_used_up) == ("month", False)


def test_budgets_that_are_gone_are_not_published_any_more(settings: Settings, redis_client: redis.Redis) -> None:
    some = [standing("a", "1"), standing("b", "1", scope="all"), standing("c", "1", scope="user=zoë:1")]
    for _ in range(2):
        assert publish(settings, some) == 3
        names = {"usage_pipeline:budget:team=search", "usage_pipeline:budget:all", "usage_pipeline:budget:user=zoë:1"}
        assert {key.decode() for key in redis_client.scan_iter("usage_pipeline:budget:*")} == names
    publish(settings, some[1:2])
    assert redis_client.keys("usage_pipeline:budget:*") == [b"usage_pipeline:budget:all"]
    publish(settings, [])
    assert redis_client.keys("usage_pipeline:budget*") == []


@pytest.mark.parametrize("scope", ["", "search", "color=red", "team=", "team=" + "x" * 201, "team=a\0b", 5, None])
def test_a_scope_that_cannot_be_is_counted_as_a_wrong_argument(call: Check, scope: Any) -> None:
    assert call("check_budget", scope) == UNKNOWN_BUDGET
    assert call("failures") == {("budget", "wrong argument"): 1}


@pytest.mark.parametrize(
    "published",
    [
        "no JSON",
        "[]",
        "{}",
        '{"budgets": 5}',
        '{"budgets": [5]}',
        json.dumps({"budgets": [{"name": "b", "unit": "usd", "used": "x", "limit": "1", "as_of": 1, "ends_at": 9e9}]}),
        json.dumps({"budgets": [{"name": "b", "unit": "usd", "used": "1", "limit": "0", "as_of": 1, "ends_at": 9e9}]}),
        json.dumps({"budgets": [{"name": "b", "unit": "usd", "used": "1", "limit": "1", "as_of": 1, "ends_at": 9e99}]}),
    ],
)
def test_what_is_no_budget_never_raises(call: Check, redis_client: redis.Redis, published: str) -> None:
    redis_client.set(_key(), published)
    assert call("check_budget", "team=search") == UNKNOWN_BUDGET
    assert call("failures") == {("budget", "refused"): 1}
    redis_client.delete(_key())
    redis_client.hset(_key(), "a", "b")
    assert call("check_budget", "team=search") == UNKNOWN_BUDGET


def test_without_redis_nothing_is_used_up_and_the_answer_says_that_nobody_knows() -> None:
    recorder = Recorder.connect("redis://127.0.0.1:9/0", timeout_seconds=0.2)
    assert recorder.check_budget("all") == UNKNOWN_BUDGET
    assert (UNKNOWN_BUDGET.is_known, UNKNOWN_BUDGET.is_used_up) == (False, False)
    assert recorder.failures == {("budget", "unreachable"): 1}
    recorder.close(0)

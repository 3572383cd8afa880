"""What gateways hear: the recorder's check of a budget, by what the pipeline published in a real Redis."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact, localcontext
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
from usage_pipeline.redis_keys import BUDGET_SCOPES
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.settings import Settings

SOUND = {"name": "b", "unit": "usd", "used": "1", "limit": "1", "as_of": 1, "ends_at": 9e9}
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
    publish(settings, [])
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
        # Nobody knows what is used of the new day.
        answer = call("check_budget", "team=search")
        assert (answer.name, answer.is_used_up, answer.is_known) == ("month", False, False)
        publish(settings, [day, standing("month", "10", period="month")])
        answer = call("check_budget", "team=search")
        assert (answer.name, answer.is_used_up, answer.is_known) == ("month", True, True)


def may_pass_a_closed_gateway(answer: BudgetAnswer) -> bool:
    """As docs/budgets.md says for a gateway that refuses also while nobody knows."""
    return not (answer.is_used_up or not answer.is_known)


def test_without_a_sign_of_life_nobody_knows_whether_a_scope_has_a_budget(
    call: Check, settings: Settings, redis_client: redis.Redis
) -> None:
    assert call("check_budget", "team=search") == UNKNOWN_BUDGET, "nothing was ever published"
    publish(settings, [standing("b", "10")])
    assert not may_pass_a_closed_gateway(call("check_budget", "team=search"))
    assert may_pass_a_closed_gateway(call("check_budget", "team=other"))
    redis_client.flushall()
    for scope in ("team=search", "team=other", "all"):
        assert call("check_budget", scope) == UNKNOWN_BUDGET
    publish(settings, [])
    assert call("check_budget", "team=search") == NO_BUDGET
    assert call("failures") == {}


def test_the_sign_of_life_ends_before_any_answer_does(settings: Settings, redis_client: redis.Redis) -> None:
    """Otherwise a pipeline that stands still would have no answer left, and pass for one without budgets."""
    now = datetime.now(UTC)
    over = [replace(standing("b", "10"), window=day_window(now.date() - timedelta(days=1), ZoneInfo("UTC")))]
    publish(settings, [standing("b", "10"), *over])
    sign = redis_client.pttl(recorder_keys.budgets_as_of())
    assert 0 < sign <= KEPT_AFTER.total_seconds() * 1000
    assert redis_client.pttl(_key()) >= sign
    assert abs(float(redis_client.get(recorder_keys.budgets_as_of()) or 0) - now.timestamp()) < 60


def test_what_could_not_be_published_leaves_no_sign_of_life(settings: Settings, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError):
            publish(settings, [standing("b", "10")])
    finally:
        redis_client.config_set("maxmemory", 0)
    assert not redis_client.exists(recorder_keys.budgets_as_of())


def test_a_reader_who_may_not_see_the_sign_of_life_has_the_answers_that_it_sees(
    call: Check, settings: Settings, redis_client: redis.Redis
) -> None:
    publish(settings, [standing("b", "10")])
    redis_client.delete(recorder_keys.budgets_as_of())
    redis_client.hset(recorder_keys.budgets_as_of(), "a", "b")
    assert call("check_budget", "team=search").is_used_up
    assert call("failures") == {}
    assert call("check_budget", "team=other") == UNKNOWN_BUDGET
    assert call("failures") == {("budget", "refused"): 1}
    publish(settings, [])
    assert call("check_budget", "team=other") == NO_BUDGET


@pytest.mark.parametrize("context", [Context(prec=2), Context(traps=[Inexact]), Context(traps=[])])
def test_the_callers_own_decimal_context_decides_nothing(call: Check, settings: Settings, context: Context) -> None:
    publish(settings, [standing("b", "1.234567", limit="9.876543")])
    with localcontext(context):
        answer = call("check_budget", "team=search")
    assert (answer.is_known, answer.left) == (True, Decimal("8.641976"))


def test_budgets_that_are_gone_are_not_published_any_more(settings: Settings, redis_client: redis.Redis) -> None:
    some = [standing("a", "1"), standing("b", "1", scope="all"), standing("c", "1", scope="user=zoë:1")]
    for _ in range(2):
        assert publish(settings, some) == 3
        names = {"usage_pipeline:budget:team=search", "usage_pipeline:budget:all", "usage_pipeline:budget:user=zoë:1"}
        assert published(redis_client) == names
    publish(settings, some[1:2])
    assert published(redis_client) == {"usage_pipeline:budget:all"}
    publish(settings, [])
    assert published(redis_client) == set()
    assert not redis_client.exists(BUDGET_SCOPES)


def published(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter("usage_pipeline:budget:*")} - {recorder_keys.budgets_as_of()}


@pytest.mark.parametrize("kind", ["text", "hash"])
def test_a_list_of_scopes_of_another_type_is_replaced(settings: Settings, redis_client: redis.Redis, kind: str) -> None:
    if kind == "text":
        redis_client.set(BUDGET_SCOPES, "x")
    else:
        redis_client.hset(BUDGET_SCOPES, "x", "y")
    publish(settings, [standing("b", "1")])
    assert redis_client.smembers(BUDGET_SCOPES) == {b"team=search"}
    assert published(redis_client) == {_key()}


def test_scopes_in_the_list_that_are_no_text_are_removed(settings: Settings, redis_client: redis.Redis) -> None:
    redis_client.sadd(BUDGET_SCOPES, b"team=\xff")
    redis_client.set(_key().encode()[:-6] + b"\xff", "x")
    publish(settings, [standing("b", "1")])
    assert redis_client.smembers(BUDGET_SCOPES) == {b"team=search"}
    assert published(redis_client) == {_key()}


def test_a_budget_that_is_gone_is_not_published_though_the_list_of_scopes_was_lost(
    settings: Settings, redis_client: redis.Redis
) -> None:
    publish(settings, [standing("b", "1")])
    redis_client.delete(BUDGET_SCOPES)
    publish(settings, [], gone={"team=search"})
    assert published(redis_client) == set()
    # One that is there is not gone.
    publish(settings, [standing("b", "1")], gone={"team=search"})
    assert published(redis_client) == {_key()}


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
        # Python's parser recurses.
        "[" * 100_000,
        '{"budgets": ' + "[" * 100_000,
        '{"budgets": [{"name": ' + '{"a":' * 100_000,
        "9" * 10_000,
        "\xff",
        '{"budgets": null}',
        '{"budgets": {"a": 1}}',
        *(
            json.dumps({"budgets": [{**SOUND, **odd}]})
            for odd in (
                {"used": "NaN"},
                {"used": "sNaN"},
                {"used": "Infinity"},
                {"limit": "NaN"},
                {"limit": "Infinity"},
                {"limit": "-1"},
                {"used": "9" * 5_000 + "x"},
                {"used": None},
                {"used": [1]},
                {"as_of": float("nan")},
                {"as_of": "1"},
                {"ends_at": float("inf")},
                {"ends_at": None},
                {"ends_at": -(10**400)},
            )
        ),
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

"""When a request is made again, after how long, and that the whole is bounded."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.enrichment.posts import fetch_post
from usage_pipeline.enrichment.retry_rules import (
    LONGEST_RETRY_AFTER_SECONDS,
    Failure,
    RetryPolicy,
    failure_of_error,
    failure_of_status,
    retry_after_seconds,
    wait_before,
)
from usage_pipeline.settings import load_settings

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RETRIED = Failure("failed", is_retried=True)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 599])
def test_these_statuses_are_retried(status: int) -> None:
    assert failure_of_status(status, None, NOW).is_retried


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 400, 401, 403, 404, 410, 418, 422, 451, 600])
def test_other_statuses_are_not_and_their_retry_after_is_nothing(status: int) -> None:
    failure = failure_of_status(status, "1", NOW)
    assert (failure.is_retried, failure.retry_after_seconds) == (False, None)
    assert str(status) in failure.reason


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (TimeoutError(), True),
        (httpx.ConnectTimeout("x"), True),
        (httpx.PoolTimeout("x"), True),
        (httpx.ConnectError("x"), True),
        (httpx.ReadError("x"), True),
        (httpx.RemoteProtocolError("x"), True),
        (httpx.ProxyError("x"), True),
        (httpx.LocalProtocolError("x"), False),
        (httpx.UnsupportedProtocol("x"), False),
        (httpx.DecodingError("x"), False),
        (httpx.TooManyRedirects("x"), False),
    ],
)
def test_connection_errors_and_time_outs_are_retried(error: Exception, is_retried: bool) -> None:
    assert failure_of_error(error).is_retried is is_retried


def test_what_an_error_says_is_not_repeated() -> None:
    assert "hunter2" not in failure_of_error(httpx.ConnectError("http://u:hunter2@h")).reason


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("9" * 400, float("inf")),
        (format_datetime(NOW + timedelta(seconds=8), usegmt=True), 8.0),
        (format_datetime(NOW - timedelta(hours=1), usegmt=True), 0.0),
        ("Sat, 21 Nov 2026 13:00:05 +0100", 5.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        ("Sat, 99 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@pytest.mark.parametrize(
    ("number", "chance", "retry_after", "wait"),
    [
        (2, 0.0, None, 2.0),
        (2, 1.0, None, 2.5),
        (3, 0.0, None, 4.0),
        (3, 1.0, None, 5.0),
        (3, 0.5, None, 4.5),
        (4, 0.0, None, None),  # three tries
        (2, 0.0, 1.0, 2.0),
        (2, 0.0, 7.0, 7.0),
        (2, 1.0, 10.0, 10.0),
        (2, 0.0, 10.001, None),
        (2, 0.0, float("inf"), None),
    ],
)
def test_waits_are_two_and_four_seconds_with_jitter_or_what_is_asked_for(
    number: int, chance: float, retry_after: float | None, wait: float | None
) -> None:
    failure = Failure("answered 429", is_retried=True, retry_after_seconds=retry_after)
    assert wait_before(number, failure, RetryPolicy(), lambda: chance) == wait


def test_what_is_not_retried_is_not_waited_for() -> None:
    assert wait_before(2, Failure("answered 404", is_retried=False), RetryPolicy(), lambda: 0.0) is None


def test_with_many_tries_the_waits_stop_growing() -> None:
    policy = RetryPolicy(tries=10)
    waits = [wait_before(number, RETRIED, policy, lambda: 0.0) for number in range(2, 11)]
    assert waits == [2, 4, 8, 16, 30, 30, 30, 30, 30]


def test_the_policy_and_its_bound_are_those_of_the_settings() -> None:
    assert RetryPolicy.of(load_settings()) == RetryPolicy(tries=3, timeout_seconds=5.0)
    assert RetryPolicy().most_seconds == 3 * 5 + 2 * LONGEST_RETRY_AFTER_SECONDS == 35
    assert RetryPolicy(tries=1, timeout_seconds=0.5).most_seconds == 0.5
    settings = load_settings(external_api_timeout=250, external_api_max_retries=5)
    assert RetryPolicy.of(settings) == RetryPolicy(tries=5, timeout_seconds=0.25)


OUTCOMES = st.one_of(
    st.tuples(
        st.sampled_from([200, 302, 404, 408, 425, 429, 500, 503]), st.sampled_from(["", "0", "3", "10", "11", "9999"])
    ),
    st.sampled_from([httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.UnsupportedProtocol]),
)


@given(
    outcomes=st.lists(OUTCOMES, max_size=12),
    tries=st.integers(1, 10),
    spent=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_whatever_happens_the_time_is_bounded(
    outcomes: list[tuple[int, str] | type[httpx.TransportError]], tries: int, spent: float, chance: float
) -> None:
    """By a clock that goes on only while a try or a wait goes on; each try takes up to its time-out."""
    policy, elapsed, made = RetryPolicy(tries=tries, timeout_seconds=5.0), 0.0, 0
    coming = iter(outcomes)

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal elapsed, made
        elapsed, made = elapsed + spent * policy.timeout_seconds, made + 1
        outcome = next(coming, httpx.ConnectError)
        if isinstance(outcome, type):
            raise outcome("x")
        code, retry_after = outcome
        body = {"id": 7, "userId": 1, "title": "t", "body": "b"}
        return httpx.Response(code, json=body, headers={"Retry-After": retry_after} if retry_after else {})

    async def sleep(seconds: float) -> None:
        nonlocal elapsed
        assert seconds >= 2
        elapsed += seconds

    async def fetch() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://api") as client:
            fetched = await fetch_post(client, 7, policy, sleep=sleep, clock=lambda: NOW, random=lambda: chance)
        assert fetched.id == 7

    asyncio.run(fetch())
    assert 1 <= made <= tries
    assert elapsed <= policy.most_seconds

"""One post from a real server that answers in every way but the right one, and then recovers. No test waits for a retry."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
import pytest_asyncio

from usage_pipeline.enrichment.posts import MAX_ANSWER_BYTES, Post, external_client, fallback, fetch_post
from usage_pipeline.enrichment.retry_rules import RetryPolicy
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.external_api import (
    Behaviour,
    ExternalApi,
    body,
    document,
    drip,
    external_api,
    half,
    hang_up,
    late,
    no_http,
    post,
    stall,
    status,
    too_much,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = RetryPolicy(tries=3, timeout_seconds=5.0)
# For servers that never finish: each such try takes that long in truth.
HASTY = RetryPolicy(tries=3, timeout_seconds=0.2)
GOOD = Post(7, 7, "Title 7", "Text of 7")


@pytest.fixture(scope="module")
def shared_api() -> Iterator[ExternalApi]:
    with external_api() as api:
        yield api


@pytest.fixture
def api(shared_api: ExternalApi) -> Iterator[ExternalApi]:
    shared_api.requests.clear()
    shared_api.script.clear()
    yield shared_api
    # What still stalls or drips ends.
    shared_api.released.set()
    shared_api.released.clear()


@pytest_asyncio.fixture
async def client(api: ExternalApi) -> AsyncIterator[httpx.AsyncClient]:
    async with external_client(load_settings(external_api_base_url=api.url), connections=4) as client:
        yield client


class Sleeps:
    """Remembers what it was asked for, and does not wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def fetched(client: httpx.AsyncClient, sleeps: Sleeps, policy: RetryPolicy = POLICY) -> Post:
    return await fetch_post(client, 7, policy, sleep=sleeps, clock=lambda: NOW, random=lambda: 0.0)


async def test_a_post_is_fetched_in_one_request(api: ExternalApi, client: httpx.AsyncClient) -> None:
    sleeps = Sleeps()
    assert await fetched(client, sleeps) == GOOD
    assert sleeps.seconds == []
    [(path, headers)] = api.requests
    assert path == "/posts/7"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("usage_pipeline/")


async def test_the_path_of_the_base_url_is_kept(api: ExternalApi) -> None:
    settings = load_settings(external_api_base_url=f"{api.url}/v2/")
    async with external_client(settings, connections=1) as client:
        assert await fetch_post(client, 7, POLICY) == GOOD
    assert api.requests[0][0] == "/v2/posts/7"


@pytest.mark.parametrize(
    "behaviour",
    [hang_up, half, no_http, *map(status, (408, 425, 429, 500, 502, 503, 504))],
    ids=lambda one: one.__name__,
)
async def test_failures_that_pass_are_retried_after_two_and_four_seconds(
    api: ExternalApi, client: httpx.AsyncClient, behaviour: Behaviour
) -> None:
    sleeps = Sleeps()
    api.script = [behaviour, behaviour]
    assert await fetched(client, sleeps) == GOOD
    assert sleeps.seconds == [2, 4]


@pytest.mark.parametrize("behaviour", [late, drip])
async def test_a_try_is_bounded_as_a_whole(api: ExternalApi, client: httpx.AsyncClient, behaviour: Behaviour) -> None:
    sleeps = Sleeps()
    api.script = [behaviour]
    assert await fetched(client, sleeps, HASTY) == GOOD
    assert sleeps.seconds == [2]
    assert len(api.requests) == 2


async def test_an_answer_may_have_a_million_bytes_and_not_one_more(
    api: ExternalApi, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    largest = json.dumps(document(7)).encode().ljust(MAX_ANSWER_BYTES)
    api.script = [body(largest), body(largest + b" ")]
    assert await fetched(client, Sleeps()) == GOOD
    assert await fetched(client, Sleeps()) == fallback(7)
    assert f"more than {MAX_ANSWER_BYTES} bytes" in caplog.text


async def test_a_server_that_is_not_there_is_asked_three_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sleeps = Sleeps()
    async with external_client(load_settings(external_api_base_url="http://127.0.0.1:1"), connections=1) as client:
        assert await fetched(client, sleeps) == fallback(7)
    assert sleeps.seconds == [2, 4]
    [record] = [one for one in caplog.records if one.name.startswith("usage_pipeline")]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "external post 7: fallback after try 3: the API failed to answer: ConnectError"


async def test_after_three_tries_the_answer_is_the_fallback_of_the_contract(
    api: ExternalApi, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    sleeps = Sleeps()
    api.script = [status(500), status(502), status(503), post]
    answer = await fetched(client, sleeps)
    assert answer.document() == {
        "id": 7,
        "title": "Fallback: Post Unavailable",
        "body": "External API is currently unavailable",
        "error": True,
    }
    assert len(api.requests) == 3
    assert "external post 7: fallback after try 3: the API answered 503" in caplog.text
    assert await fetched(client, sleeps) == GOOD


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (status(400), "answered 400"),
        (status(404), "answered 404"),
        (status(410, "Retry-After: 1"), "answered 410"),
        (status(204), "answered 204"),
        (status(302, "Location: http://127.0.0.1:1/posts/7?key=hunter2"), "answered 302"),
        (status(307, "Location: /posts/8"), "answered 307"),
        (body(b"<html>"), "not JSON"),
        (body(b""), "not JSON"),
        (body(b"\xff\xfe"), "not JSON"),
        (body(b'{"more": ' + b"[" * 100_000), "not JSON"),
        (body(b"[]"), "other members or types"),
        (body(b"{}"), "other members or types"),
        (body(json.dumps(document(7) | {"title": None}).encode()), "other members or types"),
        (body(json.dumps(document(7) | {"body": 3}).encode()), "other members or types"),
        (body(json.dumps(document(7) | {"id": "7"}).encode()), "other members or types"),
        (body(json.dumps(document(7) | {"id": True}).encode()), "other members or types"),
        (body(json.dumps(document(7) | {"userId": [1]}).encode()), "other members or types"),
        (body(json.dumps(document(8)).encode()), "another post"),
        (body(json.dumps(document(7) | {"title": "a\0b"}).encode()), "NUL character"),
        (body(json.dumps(document(7) | {"userId": "u" * 201}).encode()), "too long"),
        (body(b"x", "Content-Encoding: gzip"), "compressed"),
        (too_much, f"more than {MAX_ANSWER_BYTES} bytes"),
    ],
    ids=range(22),
)
async def test_whatever_else_gives_the_fallback_at_once_and_the_log_says_why(
    api: ExternalApi, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, behaviour: Behaviour, reason: str
) -> None:
    sleeps = Sleeps()
    api.script = [behaviour]
    assert await fetched(client, sleeps) == fallback(7)
    assert sleeps.seconds == []
    assert api.asked == [7]
    [record] = [one for one in caplog.records if one.name == "usage_pipeline.enrichment.posts"]
    assert reason in record.getMessage()
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("6", 6.0),
        ("1", 2.0),
        (format_datetime(NOW + timedelta(seconds=9), usegmt=True), 9.0),
        ("whenever", 2.0),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_is_heeded(
    api: ExternalApi, client: httpx.AsyncClient, header: str, wait: float, code: int
) -> None:
    sleeps = Sleeps()
    api.script = [status(code, f"Retry-After: {header}")]
    assert await fetched(client, sleeps) == GOOD
    assert sleeps.seconds == [wait]


async def test_a_server_that_wants_more_time_than_there_is_is_left_alone(
    api: ExternalApi, client: httpx.AsyncClient
) -> None:
    sleeps = Sleeps()
    api.script = [status(429, "Retry-After: 3600")]
    assert await fetched(client, sleeps) == fallback(7)
    assert (sleeps.seconds, api.asked) == ([], [7])


async def test_no_cookie_is_kept(api: ExternalApi, client: httpx.AsyncClient) -> None:
    api.script = [status(500, "Set-Cookie: session=1; Path=/")]
    assert await fetched(client, Sleeps()) == GOOD
    assert "cookie" not in api.requests[1][1]


async def test_proxies_of_the_environment_are_not_used(api: ExternalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with external_client(load_settings(external_api_base_url=api.url), connections=1) as client:
        assert await fetched(client, Sleeps()) == GOOD


@pytest.mark.parametrize("during", ["request", "wait"])
async def test_a_cancellation_ends_it_at_once_and_the_connection_with_it(
    api: ExternalApi, client: httpx.AsyncClient, during: str
) -> None:
    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    api.script = [stall if during == "request" else status(500)]
    fetching = asyncio.create_task(fetch_post(client, 7, POLICY, sleep=sleep))
    async with asyncio.timeout(10):
        while not (waiting.is_set() if during == "wait" else api.requests):
            await asyncio.sleep(0.005)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    # All four connections of the client are free again.
    assert await asyncio.gather(*(fetch_post(client, 7, POLICY) for _ in range(4))) == [GOOD] * 4

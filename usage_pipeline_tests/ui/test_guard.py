"""The guard as middleware: what reaches the application behind it, what bodies may be, and what it says in its log."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from usage_pipeline.ui import guard
from usage_pipeline.ui.guard import MAX_BODY_BYTES, Guard
from usage_pipeline.ui.login import Login
from usage_pipeline.ui.origin import LOOPBACK_NAMES

JSON = {"Content-Type": "application/json"}


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with what came to it."""
    request = Request(scope, receive)
    said = {"method": request.method, "query": request.url.query, "bytes": len(await request.body())}
    await JSONResponse(said, headers={"Content-Security-Policy": "object-src 'none'"})(scope, receive, send)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(method: str, path: str, guarded: Guard | None = None, **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=guarded or Guard(told, allowed_hosts=LOOPBACK_NAMES, login=Login()))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3000") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


def test_no_query_reaches_graphql_by_a_get_and_others_keep_theirs() -> None:
    page = {"Accept": "text/html"}
    assert asked("GET", "/graphql?query=mutation", headers=page).json()["query"] == ""
    assert asked("GET", "/x/graphql/?query=mutation", headers=page).json()["query"] == ""
    assert asked("GET", "/assets?view=checks", headers=page).json()["query"] == "view=checks"


def test_every_answer_is_in_no_frame_and_the_policy_of_dagster_stays() -> None:
    for answer in (asked("GET", "/"), asked("GET", "/", headers={"Host": "evil.test"})):
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "object-src 'none'" in asked("GET", "/").headers["Content-Security-Policy"]


def test_a_body_comes_whole_or_not_at_all() -> None:
    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 1_048_576

    assert asked("POST", "/graphql", headers=JSON, content=pieces(3)).json()["bytes"] == 3 * 1_048_576
    assert asked("POST", "/graphql", headers=JSON, content=pieces(5)).status_code == 413
    assert asked("POST", "/graphql", headers=JSON, content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT_SECONDS", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    assert asked("POST", "/graphql", headers=JSON, content=never()).status_code == 408


def test_refusals_are_told_but_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    guarded = Guard(told, allowed_hosts=LOOPBACK_NAMES, login=Login(), clock=clock)
    for _ in range(50):
        asked("GET", "/a%0Ab", guarded, headers={"Origin": "https://evil.example"})
    assert len(caplog.messages) == 20
    assert "'/a\\nb'" in caplog.messages[0], "one line each"
    assert "'https://evil.example'" in caplog.messages[0]
    clock.now += 61
    asked("GET", "/", guarded, headers={"Host": "evil.test"})
    assert len(caplog.messages) == 21

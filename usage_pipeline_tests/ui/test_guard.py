"""The guard as middleware: what reaches the application behind it, what bodies may be, and what it says in its log."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from usage_pipeline.access.audit import LINES_OF_A_KIND, AuditLog
from usage_pipeline.ui import guard
from usage_pipeline.ui.guard import MAX_BODY_BYTES, MAX_QUERY_BYTES, Guard
from usage_pipeline.ui.login import Login
from usage_pipeline.ui.origin import LOOPBACK_NAMES
from usage_pipeline_tests.ui.test_login import CHEAP

JSON = {"Content-Type": "application/json"}


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with what came to it."""
    request = Request(scope, receive)
    said = {"method": request.method, "query": request.url.query, "bytes": len(await request.body())}
    await JSONResponse(said, headers={"Content-Security-Policy": "object-src 'none'"})(scope, receive, send)


def guard_with(write: Callable[[str], None], login: Login | None = None) -> Guard:
    return Guard(told, allowed_hosts=LOOPBACK_NAMES, login=login or Login(), audit=AuditLog(write))


def asked(method: str, path: str, guarded: Guard | None = None, **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=guarded or guard_with([].append))
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
        yield b'{"query":"{version}","variables":{"a":"'
        for _ in range(count):
            yield b"x" * 1_048_576
        yield b'"}}'

    assert asked("POST", "/graphql", headers=JSON, content=pieces(3)).json()["bytes"] == 3 * 1_048_576 + 42
    assert asked("POST", "/graphql", headers=JSON, content=pieces(5)).status_code == 413
    assert asked("POST", "/graphql", headers=JSON, content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413


def test_a_query_is_short_whatever_its_variables_are() -> None:
    """Seven bodies of 4 MB with two million fields each ended a server that may have 1 GB."""

    def posted(**members: Any) -> int:
        return asked("POST", "/x/graphql/", headers=JSON, content=json.dumps(members)).status_code

    longest = MAX_QUERY_BYTES - 2
    assert posted(query="a" * longest, variables={"a": "x" * 1_000_000}) == 200
    assert posted(variables={"a": ["a"] * 100_000}, query="a" * (longest + 1)) == 413
    for content in (b"[]", b"nonsense", b'{"query":"{a}"}'.decode().encode("utf-16"), b"[" * 100_000, b"\xff", b""):
        assert asked("POST", "/graphql", headers=JSON, content=content).status_code == 400


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT_SECONDS", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    assert asked("POST", "/graphql", headers=JSON, content=never()).status_code == 408


async def test_bodies_that_are_held_leave_room_for_the_page_and_for_other_addresses() -> None:
    """Bodies of 4 MB, each without its end: 227 of them ended a server that may have 1 GB."""
    begun = asyncio.Semaphore(0)
    guarded = guard_with([].append)

    async def unfinished() -> AsyncIterator[bytes]:
        yield b"x" * (MAX_BODY_BYTES - 1)
        begun.release()
        await asyncio.Event().wait()

    async def posted(address: str, content: Any) -> int:
        transport = httpx.ASGITransport(app=guarded, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3000") as client:
            return (await client.post("/graphql", headers=JSON, content=content)).status_code

    holding = [asyncio.create_task(posted("192.0.2.1", unfinished())) for _ in range(8)]
    try:
        for _ in holding:
            await begun.acquire()
        large = b'{"variables":"' + b"x" * (MAX_BODY_BYTES - 16) + b'"}'
        assert await posted("192.0.2.1", large) == 503
        assert await posted("192.0.2.1", b"{}") == 200
        assert await posted("192.0.2.2", large) == 200
    finally:
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
    assert await posted("192.0.2.1", large) == 200


def test_each_refusal_is_a_line_in_the_audit_log_without_the_password() -> None:
    written: list[str] = []
    guarded = guard_with(written.append, Login(CHEAP))
    right = {"Authorization": "Basic " + b64encode(b"eve:open sesame").decode()}
    wrong = {"Authorization": "Basic " + b64encode(b"eve:hunter2").decode()}
    evil = {"Origin": "https://evil.example", **right}
    assert asked("GET", "/", guarded, headers=right).status_code == 200
    assert asked("GET", "/a%0Ab", guarded).status_code == 401
    assert asked("POST", "/graphql", guarded, headers=wrong | JSON).status_code == 401
    assert asked("POST", "/graphql", guarded, headers=evil | JSON).status_code == 403
    assert asked("GET", "/graphql?query=mutation", guarded, headers=right).status_code == 405
    assert asked("POST", "/graphql", guarded, headers=right, content=b"x").status_code == 415
    assert asked("GET", "/", guarded, headers={"Host": "evil.test", **right}).status_code == 421
    assert asked("POST", "/graphql", guarded, headers=right | JSON, content=b"x" * 5_000_000).status_code == 413
    lines = [json.loads(line) for line in written]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("dagster-ui GET /a\nb", 401),
        ("dagster-ui POST /graphql", 401),
        ("dagster-ui POST /graphql", 403),
        ("dagster-ui GET /graphql", 405),
        ("dagster-ui POST /graphql", 415),
        ("dagster-ui GET /", 421),
        ("dagster-ui POST /graphql", 413),
    ]
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert {line["token_id"] for line in lines} == {None}
    assert "'https://evil.example'" in lines[2]["reason"]
    text = "".join(written)
    assert "hunter2" not in text
    assert b64encode(b"eve:hunter2").decode() not in text
    assert text.count("\n") == len(lines), "one line each"


async def test_a_flood_of_refusals_does_not_fill_the_audit_log() -> None:
    written: list[str] = []
    transport = httpx.ASGITransport(app=guard_with(written.append))
    async with httpx.AsyncClient(transport=transport, base_url="http://evil.test") as client:
        for number in range(200):
            assert (await client.get(f"/{number}" + "x" * 2_000)).status_code == 421
    assert len(written) == LINES_OF_A_KIND
    assert max(map(len, written)) < 1_000

"""A quota holds at any number of connections: waiting for Redis is no outage of Redis.

Before, whoever found all connections to Redis in use, or an event loop too busy to read an answer in time, passed uncounted.
"""

import asyncio
import errno
import re
import secrets
import time
from collections import Counter
from typing import Any

import pytest

from usage_pipeline.access.tokens import NewToken, create_token
from usage_pipeline.settings import load_settings
from usage_pipeline.storage import quick_redis
from usage_pipeline.storage.quick_redis import AWAY, QuickRedis, RedisBusy
from usage_pipeline_tests.rigs.service import Shared

CONNECTIONS = 500
ANSWERS_EACH = 4
QUOTA = 10


async def answers_of(port: int, tokens: list[str]) -> Counter[str]:
    """Statuses of ANSWERS_EACH requests of each token, one connection for each; all send at the same time.

    `passed` counts those that got in: with a 200, or with another answer that the quota did not refuse.
    """
    statuses: Counter[str] = Counter()

    async def client(token: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ask = f"GET /api/rankings/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        for _ in range(ANSWERS_EACH):
            writer.write(ask)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            status, has_quota = head[9:12].decode(), b"ratelimit-limit" in head.lower()
            statuses[status] += 1
            statuses["passed"] += status == "200" or (has_quota and status != "429")
        writer.close()

    await asyncio.gather(*map(client, tokens))
    return statuses


def expect_exactly_the_quota(shared: Shared, made: NewToken, statuses: Counter[str]) -> None:
    """What the flood left of the quota passes afterwards, and not one request more."""
    assert statuses["passed"] <= QUOTA
    headers = {"Authorization": f"Bearer {made.token}"}
    later = [shared.service.client.get("/api/rankings/models", headers=headers).status_code for _ in range(QUOTA + 1)]
    assert statuses["passed"] + later.count(200) == QUOTA
    assert set(later) <= {200, 429}
    [key] = shared.redis.keys(f"usage_pipeline:token_quota:{made.token_id}:*")
    assert shared.redis.get(key) == str(QUOTA).encode()


def test_exactly_the_quota_passes_whatever_the_number_of_connections(shared: Shared) -> None:
    made = create_token(shared.postgres, "small", ["read"], quota=QUOTA)
    statuses = asyncio.run(answers_of(shared.service.port, [made.token] * CONNECTIONS))
    assert set(statuses) <= {"passed", "200", "429", "503"}
    expect_exactly_the_quota(shared, made, statuses)


def test_a_flood_of_unknown_tokens_opens_no_quota(shared: Shared) -> None:
    made = create_token(shared.postgres, "small", ["read"], quota=QUOTA)
    nobody = [f"upt_{secrets.token_hex(6)}_{'A' * 43}" for _ in range(CONNECTIONS // 2)]
    statuses = asyncio.run(answers_of(shared.service.port, [token for one in nobody for token in (one, made.token)]))
    assert set(statuses) <= {"passed", "200", "401", "429", "503"}
    expect_exactly_the_quota(shared, made, statuses)


async def test_a_full_pool_is_no_outage(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_redis, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(quick_redis, "_CONNECTION_SECONDS", 0.05)
    monkeypatch.setattr(quick_redis, "TIMEOUT_SECONDS", 60)
    cache = QuickRedis.of(shared.settings)
    holding = asyncio.ensure_future(cache.ask(lambda one: one.blpop(["held"], timeout=0)))
    await asyncio.sleep(0)
    for _ in range(15):  # more than make an outage
        with pytest.raises(RedisBusy):
            await cache.ask(lambda one: one.get("x"))
    shared.redis.rpush("held", "enough")
    assert await holding
    monkeypatch.setattr(quick_redis, "_CONNECTION_SECONDS", 60)
    assert await cache.ask(lambda one: one.get("x")) is None
    await cache.close()


async def test_a_busy_event_loop_is_no_outage(shared: Shared) -> None:
    cache = QuickRedis.of(shared.settings)
    await cache.ask(lambda one: one.get("x"))

    async def busy() -> None:
        for _ in range(3):
            time.sleep(0.7)  # as a large document does
            await asyncio.sleep(0)

    for _ in range(3):
        answer, _ = await asyncio.gather(cache.ask(lambda one: one.get("x")), busy())
        assert answer is None
    await cache.close()


async def test_a_process_without_free_descriptors_is_busy_and_redis_is_not_away(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    cache = QuickRedis.of(shared.settings)
    monkeypatch.setattr(asyncio, "open_connection", full)
    with pytest.raises(RedisBusy):
        await cache.ask(lambda one: one.get("x"))
    await cache.close()


async def test_a_redis_that_does_not_answer_is_away() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        cache = QuickRedis.of(load_settings(redis_url=f"redis://127.0.0.1:{port}"))
        assert await cache.ask(lambda one: one.get("x")) is AWAY
        await cache.close()

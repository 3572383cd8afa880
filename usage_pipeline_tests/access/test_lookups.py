"""Who sends tokens that do not exist costs others little: few are looked for at a time, each once a second."""

import asyncio
import secrets
import socket
from contextlib import ExitStack
from dataclasses import replace

import psycopg
import pytest

from usage_pipeline.access import lookups
from usage_pipeline.access.lookups import TokenLookups, TooManyStrangers
from usage_pipeline.access.tokens import AccessToken, prefix_of
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load
from usage_pipeline_tests.rigs.service import answer_of, new_token, serving
from usage_pipeline_tests.rigs.waiting import wait_until

TOKEN = AccessToken("id", "upt_0123456789ab", "0" * 64, "name", ("read",), None, None, None, None)


class Found:
    """What a database would find, asked through the look-ups; it counts what it is asked for."""

    def __init__(self, lookups: TokenLookups, *tokens: AccessToken) -> None:
        self.lookups = lookups
        self.tokens = {token.token_prefix: token for token in tokens}
        self.asked: list[str] = []
        self.in_hand = self.most_in_hand = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def find(self, token_prefix: str) -> AccessToken | None:
        return await self.lookups.find(token_prefix, lambda: self.look_up(token_prefix))

    async def look_up(self, token_prefix: str) -> AccessToken | None:
        self.asked.append(token_prefix)
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        try:
            await self.gate.wait()
            return self.tokens.get(token_prefix)
        finally:
            self.in_hand -= 1


async def test_an_unknown_token_is_looked_for_once_a_second_and_one_that_is_made_then_is_found() -> None:
    now = [50.0]
    found = Found(TokenLookups(2, timer=lambda: now[0]))
    answers = await asyncio.gather(*(found.find(TOKEN.token_prefix) for _ in range(100)))
    assert set(answers) == {None}
    assert len(found.asked) <= 2, "those who had a place already"
    asked = len(found.asked)
    found.tokens[TOKEN.token_prefix] = TOKEN
    now[0] += 0.9
    assert await found.find(TOKEN.token_prefix) is None
    now[0] += 0.2
    assert await found.find(TOKEN.token_prefix) == TOKEN
    assert len(found.asked) == asked + 1


async def test_what_is_known_is_asked_for_each_time() -> None:
    found = Found(TokenLookups(1), TOKEN)
    assert await found.find(TOKEN.token_prefix) == TOKEN
    found.tokens[TOKEN.token_prefix] = replace(TOKEN, quota=7)
    assert await found.find(TOKEN.token_prefix) == replace(TOKEN, quota=7)
    del found.tokens[TOKEN.token_prefix]
    assert await found.find(TOKEN.token_prefix) is None


async def test_strangers_wait_in_line_and_the_known_pass_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "MOST_WAITING", 20)
    found = Found(TokenLookups(2), TOKEN)
    assert await found.find(TOKEN.token_prefix) == TOKEN
    found.gate.clear()
    strangers = [asyncio.create_task(found.find(f"upt_{number:012}")) for number in range(22)]
    await asyncio.sleep(0)
    assert found.in_hand == 2
    known = asyncio.create_task(found.find(TOKEN.token_prefix))
    await asyncio.sleep(0)
    assert found.in_hand == 3
    with pytest.raises(TooManyStrangers):
        await found.find("upt_ffffffffffff")
    found.gate.set()
    assert await known == TOKEN
    assert set(await asyncio.gather(*strangers)) == {None}
    assert found.most_in_hand == 3


async def test_nobody_waits_for_ever_and_a_failure_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "WAIT_SECONDS", 0.01)
    found = Found(TokenLookups(1))
    found.gate.clear()
    first = asyncio.create_task(found.find("upt_000000000000"))
    await asyncio.sleep(0)
    with pytest.raises(TooManyStrangers):
        await found.find("upt_ffffffffffff")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    found.gate.set()
    assert await found.find("upt_ffffffffffff") is None


async def test_a_flood_of_texts_is_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "MOST_REMEMBERED", 3)
    found = Found(TokenLookups(1, timer=lambda: 0.0))
    for number in range(5):
        await found.find(f"upt_{number:012}")
    found.asked.clear()
    for number in (4, 3, 2, 1):
        await found.find(f"upt_{number:012}")
    assert found.asked == ["upt_000000000001"]


def test_a_flood_of_random_tokens_leaves_the_connections_to_who_has_one(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    """PostgreSQL holds up each look-up of a stranger; meanwhile a known token reads as ever."""
    strangers = [f"upt_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}" for _ in range(30)]
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted and database = %s"
    [[database]] = postgres.execute("select oid from pg_database where datname = current_database()").fetchall()
    small = settings.model_copy(update={"db_pool_size": 4})
    with serving(small) as service, ExitStack() as open_connections:
        client = service.with_token(new_token(postgres, "read"))
        assert client.get("/api/usage/api-keys").status_code == 200
        holder = open_connections.enter_context(psycopg.connect(settings.database_url.get_secret_value()))
        for text in strangers:
            holder.execute(load("access/lock_api_access_token"), {"token_prefix": prefix_of(text)})
        flood: list[socket.socket] = [
            open_connections.enter_context(service.raw("Content-Length: 2\r\nConnection: close", token=text))
            for text in strangers
        ]
        wait_until(lambda: postgres.execute(waiting, (database,)).fetchone() != (0,), "a stranger is looked for", 30)
        for _ in range(10):
            assert client.get("/api/usage/api-keys").status_code == 200
            [[held_up]] = postgres.execute(waiting, (database,)).fetchall()
            assert held_up <= 1, "a quarter of four connections"
        holder.rollback()
        for connection in flood:
            connection.sendall(b"[]")
            assert answer_of(connection)[0] in (401, 503)

"""Tokens at the door: who gets in, how soon a revoked one does not, and what Redis has to do with it."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
import redis
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.keys import recorded, token_usage

from usage_pipeline.access.cache import TokenCache, forget
from usage_pipeline.access.tokens import AccessToken, create_token, find_token, prefix_of, revoke_token
from usage_pipeline.access.uses import TokenUses
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.quick_redis import QuickRedis
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Service, expect_problem, new_token, serving
from usage_pipeline_tests.rigs.waiting import wait_until


def post(service: Service, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return service.client.post(EVENTS_PATH, json=[], headers=headers)


def found(
    settings: Settings, connect: Callable[[], psycopg.Connection], prefix: str, kind: type[TokenCache] = TokenCache
) -> AccessToken | None:
    """What a token cache with connections of its own finds."""

    async def find() -> AccessToken | None:
        cache = QuickRedis.of(settings)
        tokens = kind.of(settings, cache, connect, on_lookup=lambda _: None)
        try:
            return await tokens.find(prefix)
        finally:
            await tokens.close()
            await cache.close()

    return asyncio.run(find())


def altered(token: str) -> str:
    return token[:-1] + ("A" if token[-1] != "A" else "B")


def test_only_the_whole_token_is_let_in(service: Service, token: str) -> None:
    prefix = prefix_of(token)
    wrong = ("x", prefix, f"{prefix}_", altered(token), token + "A", token.upper(), f"upt_{'0' * 12}_{'A' * 43}")
    for turn in range(2):  # the second time the right one is cached
        for presented in wrong:
            response = post(service, f"Bearer {presented}")
            expect_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer ")
        assert post(service, f"Bearer {token}").status_code == 200, turn
    for authorization in (None, f"Basic {token}", token):
        response = post(service, authorization)
        assert token not in expect_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == 'Bearer realm="usage_pipeline"'


def test_the_token_is_looked_at_before_the_body(service: Service) -> None:
    with service.raw("Content-Length: 1000", token="nobody") as connection:
        connection.settimeout(10)
        assert connection.recv(12) == b"HTTP/1.1 401"


def test_another_scope_is_403(service: Service, postgres: psycopg.Connection) -> None:
    response = post(service, f"Bearer {new_token(postgres, 'read')}")
    detail = expect_problem(response, 403, "forbidden")
    assert detail == "expected a token with the scope ingest, came one with read"
    assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
    assert post(service, f"Bearer {new_token(postgres, 'read', 'ingest')}").status_code == 200


def test_an_expired_token_is_401(service: Service, postgres: psycopg.Connection, settings: Settings) -> None:
    token = create_token(postgres, "short", ["ingest"], expires_in_days=1).token
    assert post(service, f"Bearer {token}").status_code == 200
    postgres.execute("update usage.api_access_tokens set expires_at = now() - interval '1 second'")
    forget(settings, str(prefix_of(token)))
    expect_problem(post(service, f"Bearer {token}"), 401, "unauthorized")


def test_expiry_is_checked_on_the_cached_copy(
    service: Service, token: str, settings: Settings, database_url: str, postgres: psycopg.Connection
) -> None:
    assert post(service, f"Bearer {new_token(postgres)}").status_code == 200  # now it knows the key of copies
    postgres.execute("update usage.api_access_tokens set expires_at = now() + interval '1 second'")
    assert found(settings, lambda: psycopg.connect(database_url, autocommit=True), str(prefix_of(token)))
    postgres.execute("update usage.api_access_tokens set expires_at = null")  # which the copy does not know
    wait_until(lambda: post(service, f"Bearer {token}").status_code == 401, "the time on the copy is over", 20)


def test_the_cache_holds_the_row_for_five_minutes_and_not_the_token(
    service: Service, token: str, redis_client: redis.Redis
) -> None:
    post(service, f"Bearer {token}")
    key = f"api_token:{prefix_of(token)}"
    assert 290 < redis_client.ttl(key) <= 300
    cached = redis_client.get(key) or b""
    assert json.loads(cached)["scopes"] == ["ingest"]
    assert token.encode() not in cached


async def test_a_cached_token_needs_no_database(settings: Settings, database_url: str, token: str) -> None:
    prefix = str(prefix_of(token))
    is_away = False

    def connect() -> psycopg.Connection:
        if is_away:
            raise psycopg.OperationalError("away")
        return psycopg.connect(database_url, autocommit=True)

    cache = QuickRedis.of(settings)
    tokens = TokenCache.of(settings, cache, connect, on_lookup=lambda _: None)
    stored = await tokens.find(prefix)
    assert stored
    assert await tokens.find(prefix) == stored
    is_away = True
    assert await tokens.find(prefix) == stored
    await tokens.close()
    await cache.close()


@pytest.mark.parametrize("foreign", [b"{}", b"\xff", b"[]", b'{"token_hash": "x"}'])
def test_a_foreign_value_in_the_cache_is_not_believed(
    service: Service, token: str, redis_client: redis.Redis, foreign: bytes
) -> None:
    redis_client.set(f"api_token:{prefix_of(token)}", foreign)
    assert post(service, f"Bearer {token}").status_code == 200


def test_a_revoked_token_is_out_with_the_next_request(
    service: Service, token: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    assert post(service, f"Bearer {token}").status_code == 200
    forget(settings, revoke_token(postgres, str(prefix_of(token))))
    expect_problem(post(service, f"Bearer {token}"), 401, "unauthorized")


def test_who_read_a_token_before_it_was_revoked_cannot_cache_it_afterwards(
    settings: Settings, database_url: str, token: str, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    from threading import Thread

    prefix = str(prefix_of(token))
    revoking = Thread(target=lambda: forget(settings, revoke_token(postgres, prefix)))

    class Slow(TokenCache):
        """Someone begins to revoke between this one's reading and its writing."""

        def _keep(self, found: Any, key: bytes) -> None:
            revoking.start()
            waiting = "select 1 from pg_locks where locktype = 'advisory' and not granted"
            with psycopg.connect(database_url, autocommit=True) as looking:
                wait_until(lambda: looking.execute(waiting).fetchone(), "the revocation waits", 20)
            super()._keep(found, key)

    def connect() -> psycopg.Connection:
        return psycopg.connect(database_url, autocommit=True)

    assert found(settings, connect, prefix, Slow).revoked_at is None  # type: ignore[union-attr]
    revoking.join(20)
    assert redis_client.get(f"api_token:{prefix}") is None
    assert found(settings, connect, prefix).revoked_at is not None  # type: ignore[union-attr]


def test_without_redis_tokens_are_found_in_the_database(
    settings: Settings, postgres: psycopg.Connection, token: str
) -> None:
    url = settings.database_url.get_secret_value()
    with serving(load_settings(database_url=url, redis_url="redis://:hunter2@127.0.0.1:1")) as service:
        assert post(service, f"Bearer {token}").status_code == 200
        expect_problem(post(service, f"Bearer {altered(token)}"), 401, "unauthorized")
        revoke_token(postgres, str(prefix_of(token)))
        expect_problem(post(service, f"Bearer {token}"), 401, "unauthorized")


def uses_recorded(redis_client: redis.Redis) -> int:
    return int(redis_client.hget(recorded("token", datetime.now(UTC).date()), "usage_count") or 0)  # type: ignore[arg-type]


def test_each_authenticated_request_is_recorded_for_its_token_before_it_is_answered(
    service: Service, token: str, postgres: psycopg.Connection, settings: Settings, redis_client: redis.Redis
) -> None:
    from usage_pipeline.drain.rounds import drain_once

    for number in range(3):
        post(service, f"Bearer {token}")
        assert uses_recorded(redis_client) == number + 1
    post(service, f"Bearer {altered(token)}")
    other = new_token(postgres, "read")
    assert post(service, f"Bearer {other}").status_code == 403
    assert uses_recorded(redis_client) == 4
    drain_once(settings, ["token"])
    counted = postgres.execute("select token_prefix, usage_count from usage.api_access_tokens").fetchall()
    assert dict(counted) == {prefix_of(token): 3, prefix_of(other): 1}


async def test_uses_that_come_while_a_record_is_on_its_way_go_into_the_next_one_together(
    redis_url: str, redis_client: redis.Redis
) -> None:
    recorder = AsyncRecorder.connect(redis_url)
    uses = TokenUses(recorder, "here")
    first = uses.add("a")
    await asyncio.sleep(0)  # its record is on its way
    others = [uses.add(token_id) for token_id in ("a", "b", "a", "b", "a")]
    assert first not in others
    assert len(set(others)) == 1
    await uses.close()
    await recorder.close()
    assert first.done()
    assert others[0].done()
    counts = [json.loads(redis_client.get(token_usage(token_id, "here")))["usageCount"] for token_id in ("a", "b")]  # type: ignore[arg-type]
    assert counts == [4, 2]
    assert redis_client.hget(recorded("token", datetime.now(UTC).date()), "records") == b"3"


def test_only_a_hash_is_stored_and_no_text_shows_it(settings: Settings) -> None:
    with closing(connect(settings)) as connection:
        made = create_token(connection, "mine", ["read", "ingest", "read"], expires_in_days=30)
        [row] = connection.execute("select t::text, scopes from usage.api_access_tokens as t").fetchall()
        stored = find_token(connection, made.token_prefix)
    assert made.token not in row[0]
    assert row[1] == ["ingest", "read"]
    assert made.token not in repr(made)
    assert stored
    assert stored.token_hash not in repr(stored)
    assert abs(stored.expires_at - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)  # type: ignore[operator]

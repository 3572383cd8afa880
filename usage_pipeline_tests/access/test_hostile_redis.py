"""Somebody who may write to Redis wants in: forged copies of tokens, and copies of a revoked token that are put back.

Each was let in before copies were signed.
"""

import hashlib
import hmac
import json

import httpx
import psycopg
import pytest
import redis

from usage_pipeline.access.cache import CACHE_SECONDS, TokenCache, forget
from usage_pipeline.access.session_key import session_key
from usage_pipeline.access.signed_copies import token_of
from usage_pipeline.access.tokens import create_token, prefix_of, revoke_token
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.quick_redis import QuickRedis
from usage_pipeline_tests.rigs.service import Service, serving
from usage_pipeline_tests.rigs.waiting import wait_until

READ_PATH = "/api/usage/summary"
FORGED = f"upt_{'a' * 12}_{'A' * 43}"


@pytest.fixture
def service(settings: Settings) -> Service:  # type: ignore[misc]  # a generator
    with serving(settings) as running:
        yield running


def asked(service: Service, token: str) -> httpx.Response:
    return service.client.get(READ_PATH, headers={"Authorization": f"Bearer {token}"})


def forged_row(token: str) -> dict[str, object]:
    return {
        "token_id": "x",
        "token_prefix": prefix_of(token),
        "token_hash": hashlib.sha256(token.encode()).hexdigest(),
        "name": "forged",
        "scopes": ["read", "ingest"],
        "expires_at": None,
        "revoked_at": None,
        "quota": None,
        "binding": None,
    }


def put(client: redis.Redis, token: str, copy: bytes) -> None:
    client.set(f"api_token:{prefix_of(token)}", copy)


def copy_of(client: redis.Redis, token: str) -> bytes:
    found = client.get(f"api_token:{prefix_of(token)}")
    assert isinstance(found, bytes)
    return found


@pytest.mark.parametrize("is_service_warm", [False, True])
def test_a_forged_row_gives_nothing(
    service: Service, postgres: psycopg.Connection, redis_client: redis.Redis, is_service_warm: bool
) -> None:
    if is_service_warm:  # it has looked a token up, and knows its key
        assert asked(service, create_token(postgres, "mine", ["read"]).token).status_code == 200
    row = forged_row(FORGED)
    guesses = [row, row | {"valid_until": 2**40, "signature": "0" * 64}]
    for guess in guesses:
        put(redis_client, FORGED, json.dumps(guess, separators=(",", ":")).encode())
        assert asked(service, FORGED).status_code == 401
    assert postgres.execute("select count(*) from usage.api_access_tokens where name = 'forged'").fetchone() == (0,)


def test_a_signed_copy_cannot_be_altered_or_used_for_another_token(
    service: Service, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    reader = create_token(postgres, "reader", ["read"]).token
    assert asked(service, reader).status_code == 200
    signed = copy_of(redis_client, reader)
    own_hash = hashlib.sha256(reader.encode()).hexdigest()
    alterations = {
        "hash": signed.replace(own_hash.encode(), hashlib.sha256(FORGED.encode()).hexdigest().encode()),
        "other name": signed,
        "appended": signed[:-1] + b',"token_hash":"' + hashlib.sha256(FORGED.encode()).hexdigest().encode() + b'"}',
        "prefixed": b'{"token_hash":"' + hashlib.sha256(FORGED.encode()).hexdigest().encode() + b'",' + signed[1:],
    }
    for what, altered in alterations.items():
        put(redis_client, FORGED, altered)
        assert asked(service, FORGED).status_code == 401, what
    put(redis_client, reader, signed.replace(b'["read"]', b'["ingest","read"]'))
    refused = service.client.post(
        "/api/v1/ingest/requests:bulk", json=[], headers={"Authorization": f"Bearer {reader}"}
    )
    assert refused.status_code == 403


def test_a_copy_of_a_revoked_token_that_is_put_back_gives_nothing(
    service: Service, postgres: psycopg.Connection, redis_client: redis.Redis, settings: Settings
) -> None:
    token = create_token(postgres, "leaver", ["read"]).token
    assert asked(service, token).status_code == 200
    kept = copy_of(redis_client, token)
    forget(settings, revoke_token(postgres, str(prefix_of(token))))
    assert asked(service, token).status_code == 401

    def is_out() -> bool:
        put(redis_client, token, kept)
        return asked(service, token).status_code == 401

    # What a process read of PostgreSQL may be REVOCATIONS_SECONDS old; the copy itself is valid for five minutes.
    wait_until(is_out, "the service knows that the token is revoked", 60)
    assert [is_out() for _ in range(3)] == [True] * 3


async def test_a_copy_ends_with_the_time_that_is_signed_into_it(
    settings: Settings, database_url: str, token: str, redis_client: redis.Redis
) -> None:
    now = [1_000_000.0]
    lookups: list[str] = []
    cache = QuickRedis.of(settings)
    tokens = TokenCache.of(
        settings, cache, lambda: psycopg.connect(database_url, autocommit=True), lookups.append, clock=lambda: now[0]
    )
    prefix = str(prefix_of(token))
    await tokens.find(prefix)
    kept = copy_of(redis_client, token)
    for seconds, outcome in ((0, "hit"), (CACHE_SECONDS - 1, "hit"), (CACHE_SECONDS, "miss")):
        now[0] = 1_000_000.0 + seconds
        put(redis_client, token, kept)  # without a time to live
        assert await tokens.find(prefix)
        assert lookups[-1] == outcome, seconds
    await tokens.close()
    await cache.close()


async def test_a_copy_that_another_process_signed_is_a_hit(settings: Settings, database_url: str, token: str) -> None:
    prefix, lookups = str(prefix_of(token)), list[str]()
    for _ in range(2):
        cache = QuickRedis.of(settings)
        tokens = TokenCache.of(settings, cache, lambda: psycopg.connect(database_url, autocommit=True), lookups.append)
        await tokens.find(prefix)  # the first look-up of a process always asks PostgreSQL: for the key
        await tokens.find(prefix)
        await tokens.close()
        await cache.close()
    assert lookups == ["miss", "hit", "miss", "hit"]


def test_the_key_is_made_once_and_kept(database_url: str, postgres: psycopg.Connection) -> None:
    settings = load_settings(database_url=database_url)
    first = session_key(settings, postgres)
    with psycopg.connect(database_url, autocommit=True) as another:
        assert session_key(settings, another) == first
    assert len(first) == 32
    own = load_settings(database_url=database_url, session_key="s" * 32)
    assert session_key(own, postgres) == b"s" * 32
    assert "s" * 32 not in repr(own)
    postgres.execute("delete from ops.service_keys")
    assert session_key(settings, postgres) != first


def test_a_copy_of_another_version_is_none() -> None:
    row = json.dumps(forged_row(FORGED) | {"valid_until": 10}, separators=(",", ":")).encode()

    def signed(row: bytes) -> bytes:
        return row[:-1] + b',"signature":"' + hmac.new(b"key", row[:-1], "sha256").hexdigest().encode() + b'"}'

    assert token_of(signed(row), b"key", f"upt_{'a' * 12}", now=9)
    assert token_of(signed(row.replace(b',"quota":null', b"")), b"key", f"upt_{'a' * 12}", now=9) is None
    assert token_of(signed(row.replace(b',"valid_until":10', b"")), b"key", f"upt_{'a' * 12}", now=9) is None
    assert token_of(b"", b"key", f"upt_{'a' * 12}", now=9) is None


def test_a_huge_value_under_the_name_of_a_copy_is_not_read_as_a_whole(
    service: Service, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    token = create_token(postgres, "mine", ["read"]).token
    put(redis_client, token, bytes(100 * 2**20))
    before = redis_client.info("stats")["total_net_output_bytes"]
    assert asked(service, token).status_code == 200
    assert redis_client.info("stats")["total_net_output_bytes"] - before < 2**20
    assert len(copy_of(redis_client, token)) < 2_000


@pytest.fixture
def token(postgres: psycopg.Connection) -> str:
    return create_token(postgres, "test", ["read"]).token

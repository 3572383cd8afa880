"""One token cannot keep the others out: it gets no more places and bytes than it leaves free, for as long as it takes them."""

import asyncio
import gzip
import json
import socket
import threading
from contextlib import AsyncExitStack, ExitStack

import psycopg
import pytest

from usage_pipeline.access.tokens import create_token
from usage_pipeline.api import storing as storing_module
from usage_pipeline.api.ingest import budget, routes
from usage_pipeline.api.memory import SMALL_BYTES
from usage_pipeline.api.places import Places
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.storing import Storing
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Service, answer_of, expect_problem, serving
from usage_pipeline_tests.rigs.waiting import wait_until

POOL = 2
PLACES = 12  # REQUESTS_PER_CONNECTION for each connection


def slow_body(service: Service, token: str, size: int = 1000) -> socket.socket:
    """A request whose body stops after its first byte."""
    connection = service.raw(f"Content-Length: {size}", token=token)
    connection.sendall(b"[")
    return connection


def test_slow_bodies_of_one_token_keep_no_other_token_out(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    settings = load_settings(
        database_url=database_url, redis_url=redis_url, db_pool_size=POOL, body_timeout_seconds=600
    )
    slow, other = (create_token(postgres, name, ["ingest"]).token for name in ("slow", "other"))
    with serving(settings) as service, ExitStack() as stack:

        def ask(token: str) -> int:
            return service.client.post(EVENTS_PATH, json=[], headers={"Authorization": f"Bearer {token}"}).status_code

        assert (ask(slow), ask(other)) == (200, 200)
        for _ in range(60):
            stack.enter_context(slow_body(service, slow))
        wait_until(lambda: ask(slow) == 503, "the token has taken all that it gets", 30)
        assert [ask(other) for _ in range(20)] == [200] * 20
        answer = service.client.post(EVENTS_PATH, json=[], headers={"Authorization": f"Bearer {slow}"})
        detail = expect_problem(answer, 503, "unavailable")
        assert f"{PLACES // 2} requests of this token are running" in detail
        assert answer.headers["retry-after"]


def test_those_that_are_turned_away_are_told_before_their_body_is_read(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    settings = load_settings(
        database_url=database_url, redis_url=redis_url, db_pool_size=POOL, body_timeout_seconds=600
    )
    token = create_token(postgres, "slow", ["ingest"]).token
    with serving(settings) as service, ExitStack() as stack:
        connections = [stack.enter_context(slow_body(service, token)) for _ in range(PLACES // 2 + 1)]
        [refused] = _answered(connections)
        assert answer_of(refused)[0] == 503


def _answered(connections: list[socket.socket]) -> list[socket.socket]:
    import select

    return wait_until(lambda: select.select(connections, [], [], 0)[0], "one is answered", 30)


def taken(places: Places, holder: str, stack: ExitStack) -> int:
    """How many places a holder gets that wants all."""
    for number in range(1_000):
        try:
            stack.enter_context(places.one(holder))
        except Problem:
            return number
    raise AssertionError("there is no end of places")


def test_each_gets_as_much_as_is_left_for_one_more() -> None:
    places = Places(60, "requests", "wait")
    with ExitStack() as stack:
        assert [taken(places, holder, stack) for holder in "abcd"] == [30, 15, 8, 4]
    with ExitStack() as stack:
        assert taken(places, "e", stack) == 30, "all were given back"


def test_the_only_place_can_be_had() -> None:
    places = Places(1, "requests", "wait")
    with places.one("a"), pytest.raises(Problem), places.one("b"):
        pass
    with places.one("b"):
        pass


def test_silent_large_bodies_of_two_tokens_keep_no_other_token_out(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    settings = load_settings(
        database_url=database_url, redis_url=redis_url, db_pool_size=POOL, body_timeout_seconds=600
    )
    tokens = [create_token(postgres, name, ["ingest"]).token for name in ("slow", "slower")]
    other = create_token(postgres, "other", ["ingest"]).token
    with serving(settings) as service, ExitStack() as stack:
        for token in tokens:
            for _ in range(10):
                stack.enter_context(slow_body(service, token, settings.max_gzip_size))
            client = service.with_token(token)
            wait_until(
                lambda client=client: client.post(EVENTS_PATH, json=[]).status_code == 503,  # type: ignore[misc]
                "the token has taken all that it gets",
                30,
            )
        client = service.with_token(other)
        assert [client.post(EVENTS_PATH, json=[event()]).status_code for _ in range(5)] == [200] * 5
        large = b"[" + b" " * (settings.max_gzip_size - 2) + b"]"
        assert client.post(EVENTS_PATH, content=large, headers={"Content-Type": "application/json"}).status_code == 200


def test_a_large_document_that_takes_long_keeps_no_small_one_of_another_token_out(
    database_url: str, redis_url: str, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "STORE_SECONDS", 5)
    # Else documents of two megabytes are medium ones, which have room of their own.
    monkeypatch.setattr(budget, "MEDIUM_BYTES", SMALL_BYTES)
    settings = load_settings(
        database_url=database_url, redis_url=redis_url, db_pool_size=POOL, max_gzip_size=100 * 1024
    )
    slow, other = (create_token(postgres, name, ["ingest"]).token for name in ("slow", "other"))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    def large(event_id: str | None = None) -> bytes:
        first = event() | ({"event_id": event_id} if event_id else {})
        return gzip.compress(json.dumps([first, event(prompt="a" * 900_000), event(prompt="a" * 900_000)]).encode())

    held = event()
    statuses: list[int] = []
    with serving(settings) as service, psycopg.connect(database_url) as blocker:
        blocker.execute(
            "insert into analytics.usage_event_ids (event_id, payload_hash, event_time) values (%s, %s, %s)",
            (held["event_id"], b"0" * 16, held["event_time"]),
        )
        body = large(held["event_id"])

        def send() -> None:
            client = service.with_token(slow)
            statuses.append(client.post(EVENTS_PATH, content=body, headers=headers, timeout=60).status_code)

        sender = threading.Thread(target=send)
        sender.start()
        waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        wait_until(lambda: postgres.execute(waits).fetchone(), "the large one waits for the lock", 30)
        client = service.with_token(other)
        assert client.post(EVENTS_PATH, json=[event()]).status_code == 200
        answer = client.post(EVENTS_PATH, content=large(), headers=headers, timeout=60)
        assert "as large as this server takes" in expect_problem(answer, 503, "unavailable")
        blocker.rollback()
        sender.join(60)
    assert statuses == [200]


def test_what_a_thread_holds_is_given_back_when_it_has_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing_module, "STORE_SECONDS", 0.2)
    may_end = threading.Event()

    async def run() -> None:
        storing = Storing(load_settings(database_url=database_url, db_pool_size=1))

        async def ask() -> None:
            async with AsyncExitStack() as held:
                held.enter_context(storing.places.one("slow"))
                with pytest.raises(Problem, match="no outcome"):
                    await storing.in_thread(may_end.wait, held)

        def free() -> int:
            """Places that the same token still gets."""
            with ExitStack() as stack:
                return taken(storing.places, "slow", stack)

        try:
            assert free() == 3
            # The second one waits for the thread of the first, and never begins.
            await asyncio.gather(ask(), ask())
            assert free() == 2
        finally:
            may_end.set()
        async with asyncio.timeout(30):
            while free() < 3:
                await asyncio.sleep(0)
        storing.close()

    asyncio.run(run())


def test_a_document_that_takes_too_long_is_given_up_and_nothing_of_it_is_stored(
    database_url: str, redis_url: str, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = create_token(postgres, "slow", ["ingest"]).token
    with serving(load_settings(database_url=database_url, redis_url=redis_url)) as service:
        client = service.with_token(token)
        with monkeypatch.context() as patched:
            patched.setattr(routes, "STORE_SECONDS", 0)
            answer = client.post(EVENTS_PATH, json=[event(), event()])
            assert "send the same request again" in expect_problem(answer, 503, "unavailable")
        assert postgres.execute("select count(*) from analytics.usage_events").fetchone() == (0,)
        assert client.post(EVENTS_PATH, json=[event()]).json()["inserted"] == 1

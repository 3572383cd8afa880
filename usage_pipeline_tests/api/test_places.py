"""One token cannot keep the others out: it gets no more places than it leaves free."""

import socket
from contextlib import ExitStack

import psycopg
import pytest

from usage_pipeline.access.tokens import create_token
from usage_pipeline.api.places import Places
from usage_pipeline.api.problems import Problem
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Service, answer_of, expect_problem, serving
from usage_pipeline_tests.rigs.waiting import wait_until

POOL = 2
PLACES = 12  # REQUESTS_PER_CONNECTION for each connection


def slow_body(service: Service, token: str) -> socket.socket:
    """A request whose body stops after its first byte."""
    connection = service.raw("Content-Length: 1000", token=token)
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

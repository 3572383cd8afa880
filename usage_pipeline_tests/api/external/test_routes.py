"""`GET /api/external/posts/{id}`: the API's post or the fallback, few requests at once, each post once, whoever asks."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import httpx
import psycopg
import pytest

from usage_pipeline.api.external import posts as external_posts
from usage_pipeline.api.external.kept import KeptAnswers
from usage_pipeline.api.external.posts import PostDesk
from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.storing import Storing
from usage_pipeline.enrichment.posts import fallback
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.external_api import ExternalApi, document, external_api, post, response, stall, status
from usage_pipeline_tests.rigs.service import Service, expect_problem, serving
from usage_pipeline_tests.rigs.waiting import wait_until

FALLBACK = fallback(7).document()


@pytest.fixture
def api() -> Iterator[ExternalApi]:
    with external_api() as api:
        yield api


@pytest.fixture
def service(api: ExternalApi, settings: Settings) -> Iterator[Service]:
    # One try: nothing waits for the next one.
    with serving(api.settings(settings, external_api_max_retries=1)) as running:
        yield running


def stored(postgres: psycopg.Connection) -> list[tuple[object, ...]]:
    return postgres.execute("select id, user_id, title, is_fallback from app.external_posts order by id").fetchall()


def test_a_post_is_answered_and_stored_without_a_token(
    service: Service, api: ExternalApi, postgres: psycopg.Connection
) -> None:
    response = service.client.get("/api/external/posts/7")
    assert (response.status_code, response.json()) == (200, document(7))
    assert response.headers["content-type"] == "application/json"
    assert stored(postgres) == [("7", "7", "Title 7", False)]
    # For a minute from memory.
    api.otherwise = status(500)
    assert service.client.get("/api/external/posts/7").json() == document(7)
    assert api.asked == [7]


@pytest.fixture
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_posts, "CACHE_SECONDS", 0.0)
    monkeypatch.setattr(external_posts, "FALLBACK_SECONDS", 0.0)


@pytest.mark.usefixtures("_nothing_is_kept")
def test_a_stored_success_does_not_stand_in_for_one_that_is_no_longer_kept(service: Service, api: ExternalApi) -> None:
    service.client.get("/api/external/posts/7")
    api.otherwise = status(404)
    # The answer says that the API is away.
    assert service.client.get("/api/external/posts/7").json() == FALLBACK
    assert api.asked == [7, 7]


@pytest.mark.usefixtures("_nothing_is_kept")
def test_a_fallback_is_a_200_that_is_not_stored_and_a_success_replaces_a_stored_one(
    api: ExternalApi, service: Service, postgres: psycopg.Connection
) -> None:
    api.script = [status(500), status(404)]
    for _ in range(2):
        response = service.client.get("/api/external/posts/7")
        assert (response.status_code, response.json()) == (200, FALLBACK)
    assert stored(postgres) == []
    postgres.execute(
        "insert into app.external_posts (id, title, body, fetched_at, is_fallback) values ('7', 'F', 'F', now(), true)"
    )
    assert service.client.get("/api/external/posts/7").json() == document(7)
    assert stored(postgres) == [("7", "7", "Title 7", False)]


async def test_a_fallback_is_remembered_for_some_seconds_and_then_the_api_is_asked_again(
    api: ExternalApi, settings: Settings
) -> None:
    now = [1_000.0]
    storing = Storing(settings)
    storing.pool.open(wait=False)
    desk = PostDesk(api.settings(settings, external_api_max_retries=1), storing.pool, Metrics(), timer=lambda: now[0])
    api.otherwise = status(500)
    try:
        for _ in range(3):
            assert json.loads(await desk.answer(7)) == FALLBACK
        assert api.asked == [7], "the readers after the first one do not wait for the API"
        api.otherwise = post
        # Another post is asked for.
        assert json.loads(await desk.answer(8)) == document(8)
        now[0] += 5.0
        assert json.loads(await desk.answer(7)) == FALLBACK
        now[0] += 5.0
        assert json.loads(await desk.answer(7)) == document(7)
        assert api.asked == [7, 8, 7]
    finally:
        await desk.close()
        storing.close()


@pytest.mark.parametrize(
    "post_id",
    ["0", "-1", "2147483648", "9" * 400, "1.0", "+1", "abc", "1e3", "%31%00", "٣", "1%20or%201=1", "0x10", "true"],
)
def test_what_is_no_number_of_a_post_is_a_problem_and_nobody_is_asked(
    service: Service, api: ExternalApi, post_id: str
) -> None:
    response = service.client.get(f"/api/external/posts/{post_id}")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:usage-pipeline:invalid-request"
    assert api.requests == []


def test_the_largest_number_is_a_post(service: Service, api: ExternalApi) -> None:
    assert service.client.get("/api/external/posts/2147483647").json()["id"] == 2**31 - 1


def test_many_requests_for_a_post_are_one_request_to_the_api(service: Service, api: ExternalApi) -> None:
    gate = threading.Event()

    def late(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
        gate.wait(20)
        post(api, connection, post_id)

    api.otherwise = late
    with ThreadPoolExecutor(30) as clients:
        answers = [clients.submit(service.client.get, "/api/external/posts/7") for _ in range(30)]
        wait_until(lambda: misses(service) == 30, "all have asked", 20)
        gate.set()
        assert [answer.result(30).json() for answer in answers] == [document(7)] * 30
    assert api.asked == [7]


def misses(service: Service) -> float:
    text = service.client.get("/metrics").text
    prefix = 'usage_pipeline_cache_lookups_total{cache="external_post",outcome="miss"} '
    return float(next((line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)), 0))


def test_a_flood_of_different_posts_asks_for_a_few_and_the_others_get_the_fallback_at_once(
    service: Service, api: ExternalApi
) -> None:
    api.otherwise = stall
    with ThreadPoolExecutor(external_posts.FETCHES_AT_ONCE) as clients:
        first: list[Future[httpx.Response]] = [
            clients.submit(service.client.get, f"/api/external/posts/{number}")
            for number in range(1, external_posts.FETCHES_AT_ONCE + 1)
        ]
        wait_until(lambda: api.in_hand == external_posts.FETCHES_AT_ONCE, "all places are taken", 20)
        for number in range(100, 130):
            response = service.client.get(f"/api/external/posts/{number}")
            assert (response.status_code, response.json()) == (200, fallback(number).document())
        # The others of the service are not held up.
        assert service.client.get("/healthz").status_code == 200
        api.otherwise = post
        # The servers behind the stalled requests close them: a failure of the one try there is.
        api.released.set()
        assert {answer.result(30).json()["error"] for answer in first} == {True}
    assert len(api.requests) == external_posts.FETCHES_AT_ONCE
    api.released.clear()
    wait_until(
        lambda: service.client.get("/api/external/posts/100").json() == document(100), "a place is free again", 20
    )


def test_so_many_may_wait_and_no_more(service: Service, api: ExternalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_posts, "MOST_WAITING", 2)
    api.otherwise = stall
    with ThreadPoolExecutor(2) as clients:
        first = [clients.submit(service.client.get, "/api/external/posts/7") for _ in range(2)]
        wait_until(lambda: misses(service) == 2, "both have asked", 20)
        response = service.client.get("/api/external/posts/7")
        assert (response.status_code, response.json()) == (200, FALLBACK)
        api.released.set()
        assert [answer.result(30).status_code for answer in first] == [200, 200]


async def test_whoever_is_cancelled_takes_the_fetch_from_nobody(
    api: ExternalApi, settings: Settings, postgres: psycopg.Connection
) -> None:
    gate = threading.Event()

    def late(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
        gate.wait(20)
        post(api, connection, post_id)

    api.otherwise = late
    storing = Storing(settings)
    storing.pool.open(wait=False)
    desk = PostDesk(api.settings(settings), storing.pool, Metrics())
    first, second = asyncio.create_task(desk.answer(7)), asyncio.create_task(desk.answer(7))
    async with asyncio.timeout(20):
        while api.in_hand == 0:
            await asyncio.sleep(0.005)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()
    assert json.loads(await second) == document(7)
    await desk.close()
    storing.close()
    assert api.asked == [7]
    assert stored(postgres) == [("7", "7", "Title 7", False)]


def test_a_post_is_answered_though_it_cannot_be_stored(
    api: ExternalApi, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    away = settings.model_copy(
        update={
            "database_url": type(settings.database_url)("postgresql://u:hunter2@127.0.0.1:1/x"),
            "connect_timeout_seconds": 0.2,
        }
    )
    with serving(api.settings(away)) as service:
        assert service.client.get("/api/external/posts/7").json() == document(7)
    assert "external post 7 was answered, but could not be stored" in caplog.text
    assert "hunter2" not in caplog.text


def ask(port: int) -> None:
    with suppress(httpx.HTTPError), httpx.Client(trust_env=False, timeout=30) as client:
        client.get(f"http://127.0.0.1:{port}/api/external/posts/7")


def test_the_service_stops_while_a_post_is_fetched(api: ExternalApi, settings: Settings) -> None:
    api.otherwise = stall
    with serving(api.settings(settings, external_api_timeout=1_000, external_api_max_retries=1)) as service:
        asking = threading.Thread(target=ask, args=(service.port,))
        asking.start()
        wait_until(lambda: api.in_hand == 1, "the post is being fetched")
    asking.join(30)
    assert not asking.is_alive()


def test_posts_are_kept_up_to_a_number_of_bytes_whatever_the_api_sends(
    api: ExternalApi, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 900_000

    def large(api: ExternalApi, connection: socket.socket, post_id: int) -> None:
        whole = {**document(post_id), "body": "x" * size}
        connection.sendall(response(200, json.dumps(whole).encode()))

    # On a busy machine a minute may be over before all are there.
    monkeypatch.setattr(external_posts, "CACHE_SECONDS", 3_600.0)
    api.otherwise = large
    with serving(api.settings(settings, external_api_max_retries=1, external_api_timeout=60_000)) as service:
        for number in range(1, 31):
            assert len(service.client.get(f"/api/external/posts/{number}").json()["body"]) == size
        api.otherwise = status(404)
        # Newest first; what is no longer kept is asked for, and is a fallback.
        posts = [service.client.get(f"/api/external/posts/{number}").json() for number in range(30, 0, -1)]
    kept = [post for post in posts if "error" not in post]
    assert kept == posts[: len(kept)], "the oldest went first"
    assert len(kept) * size <= external_posts.CACHED_BYTES < (len(kept) + 1) * (size + 200)


def test_old_answers_are_not_held_until_there_is_no_room() -> None:
    now = [0.0]
    kept = KeptAnswers(10.0, most=3, most_bytes=100, timer=lambda: now[0])
    kept.keep(1, b"x" * 60)
    assert (kept.get(1), kept.bytes) == (b"x" * 60, 60)
    kept.keep(1, b"y" * 50)
    assert (kept.get(1), kept.bytes) == (b"y" * 50, 50)
    now[0] = 9.0
    kept.keep(2, b"z" * 40)
    assert (kept.get(1), kept.get(2), kept.bytes) == (b"y" * 50, b"z" * 40, 90)
    now[0] = 10.0
    assert kept.get(1) is None
    kept.keep(3, b"")
    assert (kept.get(2), kept.bytes) == (b"z" * 40, 40)
    for number in range(4, 9):
        kept.keep(number, b"z")
    assert ([kept.get(number) for number in range(1, 9)], kept.bytes) == ([None] * 5 + [b"z"] * 3, 3)
    kept.keep(9, b"x" * 101)
    assert (kept.get(9), kept.bytes) == (None, 0)


def test_the_route_can_be_turned_off(api: ExternalApi, settings: Settings) -> None:
    with serving(api.settings(settings, enable_external_posts_route=False)) as service:
        for post_id in ("7", "x"):
            expect_problem(service.client.get(f"/api/external/posts/{post_id}"), 404, "not-found")
        assert "/api/external/posts/{id}" not in service.client.get("/openapi.json").json()["paths"]
    assert api.requests == []


def test_openapi_says_what_comes(service: Service) -> None:
    operation = service.client.get("/openapi.json").json()["paths"]["/api/external/posts/{id}"]["get"]
    [parameter] = operation["parameters"]
    assert (parameter["schema"]["minimum"], parameter["schema"]["maximum"]) == (1, 2**31 - 1)
    assert "security" not in operation
    shapes = [
        one["$ref"].rpartition("/")[2]
        for one in operation["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    ]
    assert shapes == ["ExternalPost", "UnavailablePost"]

"""What every answer of the service says to a browser, whatever its route and status. A new route is looked at as well."""

import re
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from usage_pipeline.api.app import create_app
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Shared, new_token, routes_of, serving

EVIL = "evil.test"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
# What is the same for everybody, and has no number of ours.
PAGES = ("text/html", "text/css", "text/javascript", "image/svg+xml", "image/png")


def expect_headers(answer: httpx.Response) -> None:
    where = f"{answer.request.method} {answer.request.url} {answer.status_code}"
    headers = answer.headers
    # Its form would come with `Origin: null` otherwise, and its numbers are nobody else's.
    is_month = answer.request.url.path == "/month" and headers.get("content-type", "").startswith("text/html")
    assert headers.get_list("x-content-type-options") == ["nosniff"], where
    assert headers.get_list("referrer-policy") == ["same-origin" if is_month else "no-referrer"], where
    assert headers.get_list("x-frame-options") == ["DENY"], where
    [policy] = headers.get_list("content-security-policy") or [f"{where}: none"]
    assert "default-src 'none'" in policy, where
    assert "frame-ancestors 'none'" in policy, where
    assert "unsafe" not in policy, where
    [kept] = headers.get_list("cache-control") or [f"{where}: none"]
    is_page = headers.get("content-type", "").startswith(PAGES) and not is_month
    is_of_all = is_page or answer.request.url.path == "/openapi.json"
    assert ("no-store" in kept) is (answer.status_code != 304 and not is_of_all), f"{where}: {kept}"


def asked_for(path: str) -> Iterator[str]:
    concrete = re.sub(r"\{\w+(:path)?\}", "x", path)
    yield concrete
    yield f"{concrete}?limit=x"
    yield f"{concrete}/"
    if path.startswith("/api/usage/"):
        yield from (f"{concrete}?format={one}" for one in ("csv", "parquet", "json"))


def test_every_answer_of_every_route_says_how_it_may_be_kept_shown_and_read(shared: Shared) -> None:
    client, seen, types = shared.service.client, set(), set()
    right = {"Authorization": f"Bearer {new_token(shared.postgres, 'read', 'ingest')}"}
    none = {"Authorization": ""}
    narrow = {"Authorization": f"Bearer {new_token(shared.postgres, 'ingest')}"}
    routes = [*routes_of(create_app(shared.settings)), ("/nowhere", "GET"), ("/", "PROPFIND"), ("/healthz", "POST")]
    for path, method in routes:
        for one in asked_for(path):
            for headers in (right, none, narrow, {"Accept": BROWSER}):
                answer = client.request(method, one, headers=headers)
                expect_headers(answer)
                seen.add(answer.status_code)
                if answer.status_code != 204:
                    types.add(answer.headers["content-type"].partition(";")[0])
    bulk = client.post(EVENTS_PATH, content=b"x", headers={"Content-Type": "text/plain", **right})
    expect_headers(bulk)
    assert bulk.status_code == 415
    assert {200, 401, 403, 404, 405, 422} <= seen
    assert {"text/csv", "application/vnd.apache.parquet", "application/json", "text/plain", "text/html"} <= types


def test_a_failure_and_a_missing_server_answer_with_the_same_headers(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    token = new_token(postgres, "read")
    with serving(settings.model_copy(update={"allowed_origins": "https://app.example.com"})) as service:
        client = service.with_token(token)
        asks = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET"}
        preflight = client.options("/api/usage/summary", headers=asks)
        postgres.execute("drop table usage.api_keys cascade")
        # The last one: uvicorn closes the connection on which it answered a defect.
        broken = client.get("/api/usage/api-keys")
    nowhere = load_settings(database_url=f"postgresql://u@127.0.0.1:{free_port()}/x", redis_url="redis://127.0.0.1:1")
    with serving(nowhere) as service:
        away = service.with_token(token).get("/api/usage/api-keys")
        sick = service.client.get("/healthz")
    assert [answer.status_code for answer in (broken, preflight, away, sick)] == [500, 200, 503, 503]
    for answer in (broken, preflight, away, sick):
        expect_headers(answer)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_answer_takes_an_address_from_the_host_that_a_client_names(shared: Shared, scheme: str) -> None:
    client = shared.service.client
    asks = {"Host": EVIL, "X-Forwarded-Proto": scheme, "X-Forwarded-Host": EVIL, "Accept": BROWSER}
    for path, method in routes_of(create_app(shared.settings)):
        for one in asked_for(path):
            if "parquet" in one:
                continue
            answer = client.request(method, one, headers=asks, follow_redirects=False)
            assert EVIL not in answer.text, (method, one)
            assert EVIL not in str(answer.headers), (method, one)

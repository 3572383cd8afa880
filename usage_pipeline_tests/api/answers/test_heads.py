"""HEAD says what GET would, without a body: on every route that GET has, for every answer."""

import re
import socket
from contextlib import closing

import httpx

from usage_pipeline.api.app import create_app
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Shared, routes_of

# Of a moment, or of who counted before.
VARIES = {"content-length", "transfer-encoding", "etag", "x-cache", "ratelimit-remaining", "date"}


def said(answer: httpx.Response) -> tuple[int, dict[str, str]]:
    return answer.status_code, {name: value for name, value in answer.headers.items() if name not in VARIES}


def test_every_route_of_get_answers_head_with_the_same_status_and_headers(shared: Shared) -> None:
    client = shared.client
    paths = {path for path, method in routes_of(create_app(shared.settings)) if method == "GET"}
    assert len(paths) >= 20
    statuses = set()
    for path in sorted(paths):
        concrete = re.sub(r"\{\w+(:path)?\}", "x", path)
        for one in (concrete, f"{concrete}?limit=x", f"{concrete}?format=csv"):
            for headers in ({}, {"Authorization": ""}, {"Accept": "text/html"}):
                head = client.head(one, headers=headers)
                assert (said(head), head.content) == (said(client.get(one, headers=headers)), b""), one
                statuses.add(head.status_code)
    assert {200, 401, 404, 422} <= statuses
    assert client.head(EVENTS_PATH).status_code == 405
    assert client.head("/nowhere").status_code == 404


def test_a_head_has_the_length_of_the_answer_and_the_connection_goes_on(shared: Shared) -> None:
    length = shared.client.get("/openapi.json", headers={"Accept-Encoding": "identity"}).headers["content-length"]
    begin = "/openapi.json HTTP/1.1\r\nHost: x\r\n"
    with closing(socket.create_connection(("127.0.0.1", shared.service.port), timeout=30)) as connection:
        connection.sendall(f"HEAD {begin}\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        whole = b""
        while piece := connection.recv(65_536):
            whole += piece
    head, rest = whole.split(b"\r\n\r\n", 1)
    assert b"content-length: " + length.encode() in head.lower()
    assert rest.startswith(b"HTTP/1.1 200"), "nothing between the head and the next answer"


def test_the_head_of_a_file_reads_no_rows(shared: Shared) -> None:
    for _ in range(20):
        head = shared.client.head("/api/usage/models?format=parquet")
        assert head.status_code == 200
        assert head.headers["content-disposition"].endswith('.parquet"')
        assert "content-length" not in head.headers


def test_a_head_is_counted_under_its_route(shared: Shared) -> None:
    shared.client.head("/api/usage/models?limit=3")
    text = shared.client.get("/metrics").text
    assert re.search(r'requests_total\{method="HEAD",route="/api/usage/models",status="2xx"\} [1-9]', text), text

"""A real uvicorn on a free loopback port for a test, and raw sockets for what no client would send."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import redis
import uvicorn

from usage_pipeline.access.tokens import create_token
from usage_pipeline.api.app import create_app
from usage_pipeline.api.server import server_options
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.waiting import wait_until

EVENTS_PATH = "/api/v1/ingest/requests:bulk"
ARCHIVES_PATH = "/api/v1/ingest/archives:bulk"


class Service:
    """A running service: its address, and a client without a token."""

    def __init__(self, port: int) -> None:
        self.port = port
        # No limits: above 20 connections the pool closes some that another thread is about to use ("Bad file descriptor").
        url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False, limits=httpx.Limits())

    def with_token(self, token: str) -> httpx.Client:
        self.client.headers["Authorization"] = f"Bearer {token}"
        return self.client

    def raw(self, head: str, *, token: str = "", path: str = EVENTS_PATH) -> socket.socket:
        """A connection that has sent the head of a POST with these further headers, and nothing of its body."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\n{head}\r\n\r\n".encode()
        )
        return connection


@dataclass(frozen=True)
class Shared:
    """What the tests of a module have in common; `client` has a read token."""

    service: Service
    client: httpx.Client
    token: str
    postgres: psycopg.Connection
    redis: redis.Redis
    settings: Settings


@contextmanager
def serving(settings: Settings) -> Iterator[Service]:
    """The service in a thread of this process, stopped gracefully at the end."""
    listening = socket.create_server(("127.0.0.1", 0))
    options = server_options(settings) | {"timeout_graceful_shutdown": 20, "lifespan": "on"}
    config = uvicorn.Config(create_app(settings), **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "the service starts", 20)
    service = Service(listening.getsockname()[1])
    try:
        yield service
    finally:
        service.client.close()
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive(), "the service stops"


def new_token(postgres: psycopg.Connection, *scopes: str) -> str:
    return create_token(postgres, "test", scopes or ("ingest",)).token


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the one answer on a connection that is closed after it."""
    whole = b""
    while piece := connection.recv(65_536):
        whole += piece
    head, _, body = whole.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body) if body else None


def expect_problem(response: httpx.Response, status: int, kind: str) -> str:
    """Checks the document, and returns its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert set(document) == {"type", "title", "status", "detail", "instance"}
    assert document["type"] == f"urn:usage-pipeline:{kind}"
    assert document["status"] == status
    assert document["instance"] == response.request.url.path
    detail: str = document["detail"]
    return detail

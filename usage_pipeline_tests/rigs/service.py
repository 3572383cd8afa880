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
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr
from starlette.routing import Route

from usage_pipeline.access.tokens import create_token
from usage_pipeline.api.app import create_app
from usage_pipeline.api.server import server_options
from usage_pipeline.bindings import Bounds
from usage_pipeline.settings import Settings
from usage_pipeline.storage.roles.grants import API_ROLE
from usage_pipeline_tests.rigs.waiting import wait_until

EVENTS_PATH = "/api/v1/ingest/requests:bulk"
ARCHIVES_PATH = "/api/v1/ingest/archives:bulk"
LITELLM_PATH = "/api/v1/ingest/litellm"
CLOUDEVENTS_PATH = "/api/v1/ingest/cloudevents"
CORRECTIONS_PATH = "/api/v1/ingest/corrections:bulk"


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


def as_role(settings: Settings, role: str) -> Settings:
    """The same for a process that connects to the tests' own server as another role than its superuser."""
    url = settings.database_url.get_secret_value().replace("//postgres:@", f"//{role}:@")
    return settings.model_copy(update={"database_url": SecretStr(url)})


@contextmanager
def serving(settings: Settings) -> Iterator[Service]:
    """The service in a thread of this process, as its own role of PostgreSQL, stopped gracefully at the end."""
    settings = as_role(settings, API_ROLE)
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


def new_token(postgres: psycopg.Connection, *scopes: str, name: str = "test", bounds: Bounds | None = None) -> str:
    return create_token(postgres, name, scopes or ("ingest",), bounds=bounds).token


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every path and method of an app, wherever a router keeps it. Raises TypeError for what is no route with methods."""
    for kept in app.router.routes:
        # FastAPI keeps included routers as they are.
        for route in kept.original_router.routes if hasattr(kept, "original_router") else [kept]:
            if not isinstance(route, Route | APIRoute):
                raise TypeError(f"expected a route with methods, came {route!r}")
            yield from ((route.path, method) for method in sorted(route.methods or ()))


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

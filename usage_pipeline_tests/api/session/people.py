"""People of tests: they are invited, and sign in with browsers of their own."""

from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import psycopg

from usage_pipeline.access.invitations import Invitation, Person, invite, let_in_by_proxy
from usage_pipeline.bindings import Bounds
from usage_pipeline_tests.rigs.service import Service

PATH = "/api/session"
READ_PATH = "/api/usage/api-keys"
BOUND_PATH = "/api/usage/models"


def invited(postgres: psycopg.Connection, name: str = "ada", **said: Any) -> Invitation:
    return invite(postgres, Person(name, **said))


def by_proxy(postgres: psycopg.Connection, name: str = "ada", **said: Any) -> str:
    return let_in_by_proxy(postgres, Person(name, **said)).token_prefix


def of_team(team: str) -> Bounds:
    return Bounds(teams=(team,))


def browser(service: Service, **headers: str) -> httpx.Client:
    """A client with a jar of its own. It is closed with the test."""
    return httpx.Client(
        base_url=f"http://127.0.0.1:{service.port}",
        timeout=30,
        trust_env=False,
        headers=headers,
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def status_of(service: Service, *headers: tuple[str, str | bytes], path: str = READ_PATH, method: str = "GET") -> int:
    """The status of a request with these headers as they are, also those that no client of HTTP would send."""
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection:
        connection.putrequest(method, path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status


def signed_in(service: Service, code: str) -> httpx.Client:
    """A browser that used this invitation."""
    client = browser(service)
    answer = client.post(PATH, json={"invite": code})
    assert answer.status_code == 200, answer.text
    return client


def attempts(service: Service, *codes: str) -> list[int]:
    """The statuses of one sign-in after the other, each of a browser of its own."""
    statuses = []
    for code in codes:
        with closing(browser(service)) as client:
            statuses.append(client.post(PATH, json={"invite": code}).status_code)
    return statuses

"""Senders with tokens of their own, at one service."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg

from usage_pipeline.bindings import Bounds
from usage_pipeline_tests.rigs.service import ARCHIVES_PATH, CORRECTIONS_PATH, EVENTS_PATH, Service, new_token

SCOPES = ("ingest", "read", "correct", "users", "prompts")
COUNTS = ("inserted", "duplicates", "conflicts")


@dataclass(frozen=True, slots=True)
class Sender:
    """A client with a token."""

    client: httpx.Client

    def send(self, *events: dict[str, Any]) -> dict[str, Any]:
        return self.answer(EVENTS_PATH, events)

    def archive(self, *archives: dict[str, Any]) -> dict[str, Any]:
        return self.answer(ARCHIVES_PATH, archives)

    def correct(self, *corrections: dict[str, Any]) -> dict[str, Any]:
        return self.answer(CORRECTIONS_PATH, corrections)

    def answer(self, path: str, items: Sequence[Any]) -> dict[str, Any]:
        response = self.client.post(path, json=list(items))
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document


class Senders:
    """Makes senders of one service."""

    def __init__(self, service: Service, postgres: psycopg.Connection) -> None:
        self._service = service
        self._postgres = postgres
        self._clients: list[httpx.Client] = []

    def new(
        self,
        *teams: str,
        services: Sequence[str] = (),
        users: Sequence[str] = (),
        scopes: Sequence[str] = SCOPES,
        name: str = "test",
    ) -> Sender:
        """One that is bound to these; to nothing without any."""
        bounds = Bounds.of(teams, services, users)
        token = new_token(self._postgres, *scopes, name=name, bounds=bounds)
        client = httpx.Client(
            base_url=self._service.client.base_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            trust_env=False,
        )
        self._clients.append(client)
        return Sender(client)

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextmanager
def senders_of(service: Service, postgres: psycopg.Connection) -> Iterator[Senders]:
    senders = Senders(service, postgres)
    try:
        yield senders
    finally:
        senders.close()


def counts(answer: dict[str, Any]) -> tuple[int, int, int]:
    """Inserted, duplicates, conflicts."""
    assert answer["rejected"] == [], answer
    inserted, duplicates, conflicts = (answer[name] for name in COUNTS)
    return inserted, duplicates, conflicts

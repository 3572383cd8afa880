"""Reads all parts of the status, one after the other. It changes nothing, and raises nothing that a server can cause."""

from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import psycopg

from usage_pipeline.settings import Settings
from usage_pipeline.status import postgres_parts, redis_parts
from usage_pipeline.status.part import Part, read
from usage_pipeline.storage.postgres import PostgresUnavailable, connect

_STATEMENT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Everything:
    """All parts at a time, in the order in which they are shown."""

    at: datetime
    parts: tuple[Part, ...]

    @property
    def is_readable(self) -> bool:
        """Whether every part answered, and the schema is that of this installation."""
        return all(part.state != "down" for part in self.parts)

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


def read_everything(settings: Settings) -> Everything:
    now = datetime.now(UTC)
    server = read("Redis", lambda: redis_parts.server_part(settings))
    stored: dict[str, datetime | None] | None = None
    found: list[Part] = []
    try:
        with closing(connect(settings, statement_seconds=_STATEMENT_SECONDS, any_time_zone=True)) as connection:
            found.append(read("PostgreSQL", partial(postgres_parts.server_part, connection, settings)))
            found += [
                read(name, partial(question, connection, settings)) for name, question in postgres_parts.QUESTIONS
            ]
            # Without it, the backlog says what it can.
            with suppress(psycopg.Error):
                stored = postgres_parts.last_stored(connection)
    except PostgresUnavailable as away:
        found = [Part("PostgreSQL", "down", str(away))]
        found += [Part(name, "down", "not known without PostgreSQL") for name, _ in postgres_parts.QUESTIONS]
    if server.state == "down":
        backlog = Part("backlog", "down", "not known without Redis")
    else:
        backlog = read("backlog", lambda: redis_parts.backlog_part(settings, stored))
    return Everything(now, (found[0], found[1], server, backlog, *found[2:]))

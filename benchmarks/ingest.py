"""How many usage events a second get into PostgreSQL over HTTP and by `ingest` alone, against a bare COPY of the same rows.

A million events are stored before. Everything is measured in turns within one run, on embedded servers in a temporary
folder. Run: python -m benchmarks.ingest [--stored N] [--events N] [--repeats N] [--workers N ...] [--json]
"""

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import httpx
import psycopg
from rich.table import Table

from benchmarks.harness import (
    Rates,
    Timed,
    add_repeats,
    measure_in_turns,
    medians,
    own_servers,
    paired_ratio,
    parsed,
    running_service,
    say,
    show,
    table_of,
)
from usage_pipeline.access.tokens import create_token
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.events.ingest.documents import items_of
from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.settings import Settings
from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.storage.postgres import connect

EVENTS_PER_BATCH = 1_000
CLIENTS = 4
# What is stored before lies in the last days, evenly. What is measured is of the last minutes, but for a few that come late.
DAYS = 7
RECENT_SECONDS = 600
LATE_SHARE = 0.02
_TEAMS, _SERVICES, _USERS = 40, 20, 5_000
_MODELS = [("openai", f"gpt-{number}") for number in range(8)] + [
    ("anthropic", f"claude-{number}") for number in range(6)
]
_FLOOR = """
create unlogged table floor (
    event_id uuid, event_time timestamptz, user_id text, team text, service text, provider text, model text,
    input_tokens bigint, output_tokens bigint, total_tokens bigint, latency_ms integer, status_code integer,
    error_type text, prompt text, extra jsonb
)
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """The same events as JSON, as gzip, and as lines for COPY."""

    document: bytes
    packed: bytes
    lines: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats, in events a second; ratios to the floor are paired within a repeat."""

    stored_before: int
    events: int
    repeats: int
    per_second: dict[str, float]
    to_floor: dict[str, float]


def batch(
    chance: Random, *, late_share: float = LATE_SHARE, size: int = EVENTS_PER_BATCH, has_units: bool = False
) -> Batch:
    """Events with random ids, as clients send them; that share of them is of any of the last DAYS.

    `has_units`: with cached tokens, a tier, a cost, an API key and a tag each.
    """
    now = datetime.now(UTC)
    events: list[dict[str, Any]] = []
    for _ in range(size):
        provider, model = chance.choice(_MODELS)
        is_failed = chance.random() < 0.03
        age_seconds = chance.random() * (DAYS * 86_400 if chance.random() < late_share else RECENT_SECONDS)
        events.append(
            {
                "event_id": str(UUID(int=chance.getrandbits(128), version=4)),
                "event_time": (now - timedelta(seconds=age_seconds)).isoformat(),
                "user_id": f"user-{chance.randrange(_USERS)}",
                "team": f"team-{chance.randrange(_TEAMS)}",
                "service": f"service-{chance.randrange(_SERVICES)}",
                "provider": provider,
                "model": model,
                "input_tokens": chance.randrange(10, 8_000),
                "output_tokens": chance.randrange(1, 1_000),
                "latency_ms": chance.randrange(50, 20_000),
                "status_code": 500 if is_failed else 200,
                "error_type": "overloaded" if is_failed else None,
            }
        )
    if has_units:
        for event in events:
            event |= {
                "usage": {"cache_read_tokens": event["input_tokens"] // 2},
                "service_tier": "batch",
                "cost_usd": chance.randrange(1, 10_000) / 1e6,
                "api_key_id": f"key-{chance.randrange(_USERS)}",
                "tags": {"project": f"project-{chance.randrange(_TEAMS)}"},
            }
    document = json.dumps(events).encode()
    return Batch(document, gzip.compress(document, 6), b"".join(map(_floor_line, events)))


def _floor_line(event: dict[str, Any]) -> bytes:
    total = event["input_tokens"] + event["output_tokens"]
    names = (
        "event_id",
        "event_time",
        "user_id",
        "team",
        "service",
        "provider",
        "model",
        "input_tokens",
        "output_tokens",
    )
    columns = [*(event[name] for name in names), total, event["latency_ms"], event["status_code"], event["error_type"]]
    return copy_line((*columns, None, None)) + b"\n"


class Bench:
    """Connections, a running service for each number of workers, and the things to measure."""

    def __init__(self, settings: Settings, urls: dict[int, str], token: str, events: int) -> None:
        self._settings = settings
        self._urls = urls
        self._token = token
        self._batches = events // EVENTS_PER_BATCH
        self._chance = Random(time.time_ns())
        self._postgres = connect(settings)
        self._postgres.execute(_FLOOR)
        self._clients = ProcessPoolExecutor(CLIENTS)

    def store(self, events: int) -> None:
        """What is there before anything is measured."""
        for number in range(events // EVENTS_PER_BATCH):
            self._ingest(batch(self._chance, late_share=1))
            if number % 200 == 199:
                say(f"{(number + 1) * EVENTS_PER_BATCH:,} events stored before")

    def floor(self) -> float:
        """COPY of ready lines into an unlogged table without an index, a transaction for each batch."""
        prepared = [batch(self._chance) for _ in range(self._batches)]
        with self._timed() as rate:
            for one in prepared:
                with self._postgres.cursor() as cursor, cursor.copy("copy floor from stdin") as copy:
                    copy.write(one.lines)
        return rate.per_second

    def in_process(self, *, has_units: bool = False) -> float:
        """`ingest` of ready items."""
        prepared = [batch(self._chance, has_units=has_units) for _ in range(self._batches)]
        with self._all_stored(), self._timed() as rate:
            for one in prepared:
                self._ingest(one)
        return rate.per_second

    def http(self, workers: int, clients: int) -> float:
        """Gzip over HTTP, from that many processes at a time."""
        prepared = [batch(self._chance).packed for _ in range(self._batches)]
        shares = [prepared[number::clients] for number in range(clients)]
        # Connected, imported, ready.
        list(self._clients.map(_send, [self._urls[workers]] * clients, [self._token] * clients, [[]] * clients))
        with self._all_stored(), self._timed() as rate:
            list(self._clients.map(_send, [self._urls[workers]] * clients, [self._token] * clients, shares))
        return rate.per_second

    def settle(self) -> None:
        """Between two measurements: nothing of the last one is left to be written during the next."""
        self._postgres.execute("truncate floor")
        self._postgres.execute("vacuum analyze analytics.usage_events, analytics.usage_event_ids")
        self._postgres.execute("checkpoint")

    def close(self) -> None:
        self._clients.shutdown()
        self._postgres.close()

    def _ingest(self, one: Batch) -> None:
        items = items_of(one.document, "events", most=EVENTS_PER_BATCH)
        ingest(self._postgres, EVENTS, items, source="benchmark", settings=self._settings)

    def _timed(self) -> Timed:
        return Timed(self._batches * EVENTS_PER_BATCH)

    @contextmanager
    def _all_stored(self) -> Iterator[None]:
        query = "select coalesce(sum(inserted), 0)::bigint from ops.ingest_batches"
        [[before]] = self._postgres.execute(query).fetchall()
        yield
        [[after]] = self._postgres.execute(query).fetchall()
        if after - before != self._batches * EVENTS_PER_BATCH:
            raise RuntimeError(f"expected {self._batches * EVENTS_PER_BATCH} events stored, came {after - before}")


def _send(url: str, token: str, bodies: list[bytes]) -> None:
    """One client's requests, one after the other on one connection."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Content-Encoding": "gzip"}
    with httpx.Client(trust_env=False, timeout=60, headers=headers) as client:
        client.get(f"{url}/")
        for body in bodies:
            client.post(f"{url}/api/v1/ingest/requests:bulk", content=body).raise_for_status()


def measure(settings: Settings, *, stored: int, events: int, repeats: int, workers: list[int]) -> Result:
    """All measurements in turns, `repeats` times after a warm-up that is not counted."""
    with ExitStack() as stack:
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
            token = create_token(connection, "benchmark", ["ingest"]).token
        urls: dict[int, str] = {}
        for number in workers:
            service = running_service(settings, "usage_pipeline.cli", "api", "--workers", str(number))
            urls[number] = f"http://{LOOPBACK}:{stack.enter_context(service)}"
        bench = stack.enter_context(closing(Bench(settings, urls, token, events)))
        bench.store(stored)
        subjects: dict[str, Callable[[], float]] = {
            "floor": bench.floor,
            "ingest() in process": bench.in_process,
            "ingest() in process, with units": partial(bench.in_process, has_units=True),
        }
        for number in workers:
            for clients in (1, CLIENTS):
                name = f"HTTP, {clients} client{'s' if clients > 1 else ''}, {number} worker{'s' if number > 1 else ''}"
                subjects[name] = lambda number=number, clients=clients: bench.http(number, clients)  # type: ignore[misc]
        rates: Rates = measure_in_turns(subjects, repeats=repeats, settle=bench.settle)
    return Result(
        stored_before=stored,
        events=events,
        repeats=repeats,
        per_second=medians(rates),
        to_floor={name: paired_ratio(rates, name, "floor") for name in rates},
    )


def table(result: Result) -> Table:
    """What was measured, as a person reads it."""
    title = (
        f"{result.events:,} events in batches of {EVENTS_PER_BATCH:,}, {result.stored_before:,} stored before;"
        f" medians of {result.repeats}"
    )
    shown = table_of(title, "", "events a second", "to the floor")
    for name, rate in result.per_second.items():
        shown.add_row(name, f"{rate:,.0f}", f"{result.to_floor[name]:.2f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stored", type=int, default=1_000_000, help="events that are stored before")
    parser.add_argument("--events", type=int, default=50_000, help="events in one measurement")
    add_repeats(parser)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="worker processes of the service")
    chosen = parsed(parser)
    if chosen.events < CLIENTS * EVENTS_PER_BATCH or chosen.repeats < 1 or min(chosen.workers) < 1:
        parser.error(f"expected at least {CLIENTS * EVENTS_PER_BATCH} events, one repeat and one worker")
    with own_servers() as settings:
        result = measure(
            settings,
            stored=chosen.stored,
            events=chosen.events,
            repeats=chosen.repeats,
            workers=chosen.workers,
        )
    show(asdict(result), [table(result)], as_json=chosen.json)


if __name__ == "__main__":
    main()

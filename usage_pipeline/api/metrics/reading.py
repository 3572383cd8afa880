"""Readings of the pipeline for `/metrics`, on their own connection. The queries are cheap, however large the tables are."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row

from usage_pipeline.drain.rounds import ALL_FAMILIES
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect_async
from usage_pipeline.storage.sql import load

# Rates are over so many seconds before the reading.
RATE_SECONDS = 300
# Dead letters of a family beyond that many are not counted.
MOST_DEAD_LETTERS = 100_000
# Instances that get a label of their own; the number of all of them is one value.
MOST_INSTANCES = 10
STATEMENT_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class DrainRate:
    """What was drained of a family in the last RATE_SECONDS. The age is None when there was never a batch."""

    family: str
    last_batch_age_seconds: float | None
    batches: int
    keys: int
    longest_lag_seconds: float


@dataclass(frozen=True, slots=True)
class IngestRate:
    """The outcomes of ingested items of a kind in the last RATE_SECONDS."""

    kind: str
    inserted: int
    duplicates: int
    conflicts: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A server instance that counted token uses yesterday and today, and the sums over all instances."""

    instance_id: str
    uses: float
    all_uses: float
    all_instances: int


@dataclass(frozen=True, slots=True)
class LetterCount:
    """Dead letters of a family that wait for a decision, and those that do not count because somebody decided so."""

    family: str
    open: int
    discarded: int


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """What PostgreSQL knows of the pipeline."""

    drains: list[DrainRate]
    ingests: list[IngestRate]
    dead_letters: list[LetterCount]


async def connected(settings: Settings) -> psycopg.AsyncConnection:
    """A new connection for readings, because all connections of the pool may be busy. Raises psycopg.Error."""
    return await connect_async(settings, statement_seconds=STATEMENT_SECONDS)


async def read_ledger(connection: psycopg.AsyncConnection) -> LedgerReading:
    """Reads what PostgreSQL knows of the pipeline, in milliseconds, however large the tables are. Raises psycopg.Error."""
    families = [*ALL_FAMILIES, "merchant"]
    recent = {"seconds": RATE_SECONDS}
    async with connection.cursor(row_factory=class_row(DrainRate)) as cursor:
        await cursor.execute(load("api/metrics/select_drain_rates"), recent | {"families": families})
        drains = await cursor.fetchall()
    async with connection.cursor(row_factory=class_row(IngestRate)) as rates:
        await rates.execute(load("api/metrics/select_ingest_rates"), recent)
        ingests = await rates.fetchall()
    # A family without open ones is a zero: an alert on a value that vanishes would never clear.
    of_all = {
        "families": [*families, EVENTS.dead_letter_family, ARCHIVES.dead_letter_family],
        "most": MOST_DEAD_LETTERS,
    }
    async with connection.cursor(row_factory=class_row(LetterCount)) as counts:
        await counts.execute(load("drain/count_dead_letters"), of_all)
        letters = await counts.fetchall()
    return LedgerReading(drains, ingests, letters)


async def read_instances(connection: psycopg.AsyncConnection, settings: Settings, now: datetime) -> list[Instance]:
    """The busiest instances, busiest first. It reads two days of raw rows: many rows take seconds.

    Raises psycopg.Error.
    """
    yesterday = (now.astimezone(settings.timezone) - timedelta(days=1)).date()
    async with connection.cursor(row_factory=class_row(Instance)) as cursor:
        await cursor.execute(
            load("api/metrics/select_busiest_instances"), {"first_day": yesterday, "most": MOST_INSTANCES}
        )
        return await cursor.fetchall()

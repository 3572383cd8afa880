"""The pipeline in `/metrics`: readings of PostgreSQL and Redis as metric families, kept for a few seconds.

The route needs no token, so many requests must not load the servers: of all requests at one time, only one reads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

import psycopg
import redis
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from starlette.concurrency import run_in_threadpool

from usage_pipeline.api.metrics.reading import (
    RATE_SECONDS,
    Instance,
    LedgerReading,
    connected,
    read_instances,
    read_ledger,
)
from usage_pipeline.drain.readings.backlog import Backlog, read_backlog
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import first_line
from usage_pipeline.storage.redis import RedisUnavailable

KEPT_SECONDS = 5.0
# The spread over instances changes slowly, and is the one query whose cost grows with the traffic.
INSTANCES_KEPT_SECONDS = 60.0
PART_SECONDS = 2.0
_FAILURES = (psycopg.Error, redis.RedisError, RedisUnavailable, OSError, TimeoutError)
_PREFIX = "usage_pipeline"
_log = logging.getLogger(__name__)
Reading = TypeVar("Reading")


class PipelineMetrics:
    """The last readings, and the task that makes the next. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._read_at = -float("inf")
        self._families: list[Metric] = []
        self._instances: list[Instance] | None = None
        self._instances_read_at = -float("inf")

    async def families(self) -> list[Metric]:
        """Metric families of the parts that answer. `usage_pipeline_up` says which part does not. Raises nothing."""
        async with self._lock:
            if time.monotonic() - self._read_at >= KEPT_SECONDS:
                ledger, backlog = await asyncio.gather(
                    _asked("PostgreSQL", self._ledger()), _asked("Redis", self._backlog())
                )
                self._families = list(_families(ledger, self._instances if ledger else None, backlog))
                self._read_at = time.monotonic()
            return self._families

    async def _ledger(self) -> LedgerReading:
        async with await connected(self._settings) as connection:
            ledger = await read_ledger(connection)
            if time.monotonic() - self._instances_read_at >= INSTANCES_KEPT_SECONDS:
                self._instances_read_at = time.monotonic()
                self._instances = None
                try:
                    async with asyncio.timeout(PART_SECONDS / 2):
                        self._instances = await read_instances(connection, self._settings, datetime.now(UTC))
                except (psycopg.errors.QueryCanceled, TimeoutError):
                    _log.warning(
                        "metrics: the query of token uses by instance takes too long; it is left out for a while"
                    )
            return ledger

    async def _backlog(self) -> list[Backlog]:
        return await run_in_threadpool(read_backlog, self._settings, timeout_seconds=PART_SECONDS / 4)


async def _asked(what: str, question: Awaitable[Reading]) -> Reading | None:
    try:
        async with asyncio.timeout(PART_SECONDS):
            return await question
    except _FAILURES as error:
        _log.warning("metrics: %s is down: %s", what, first_line(error))
        return None


def _families(
    ledger: LedgerReading | None, instances: list[Instance] | None, backlog: list[Backlog] | None
) -> Iterator[Metric]:
    up = _gauge("up", "1 if this part answers. If not, its metrics are left out", "part")
    up.add_metric(["database"], ledger is not None)
    up.add_metric(["redis"], backlog is not None)
    yield up
    if ledger is not None:
        yield from _of_ledger(ledger)
    if instances is not None:
        yield from _of_instances(instances)
    if backlog is not None:
        yield from _of_backlog(backlog)


def _of_ledger(ledger: LedgerReading) -> Iterator[Metric]:
    over = f"mean over the last {RATE_SECONDS} s"
    keys = _gauge("drain_keys_per_second", f"Keys (events: items) drained and stored, {over}", "family")
    batches = _gauge("drain_batches_per_second", f"Batches drained and stored, {over}", "family")
    age = _gauge("drain_last_batch_age_seconds", "Time since the last batch of a family was stored", "family")
    lag = _gauge(
        "drain_longest_lag_seconds", f"Longest time from claim to commit in the last {RATE_SECONDS} s", "family"
    )
    for drain in ledger.drains:
        keys.add_metric([drain.family], drain.keys / RATE_SECONDS)
        batches.add_metric([drain.family], drain.batches / RATE_SECONDS)
        lag.add_metric([drain.family], drain.longest_lag_seconds)
        if drain.last_batch_age_seconds is not None:
            age.add_metric([drain.family], drain.last_batch_age_seconds)
    letters = _gauge("dead_letters_open", "Refused input that waits for a decision", "family")
    discarded = _gauge(
        "dead_letters_discarded", "Refused input that does not count because somebody decided so", "family"
    )
    for count in ledger.dead_letters:
        letters.add_metric([count.family], count.open)
        discarded.add_metric([count.family], count.discarded)
    items = _gauge(
        "ingest_items_per_second", f"Usage events and archives from HTTP and files, {over}", "kind", "outcome"
    )
    for ingest in ledger.ingests:
        for outcome in ("inserted", "duplicates", "conflicts", "rejected"):
            items.add_metric([ingest.kind, outcome], getattr(ingest, outcome) / RATE_SECONDS)
    yield from (keys, batches, age, lag, letters, discarded, items)


def _of_instances(instances: list[Instance]) -> Iterator[Metric]:
    number = _gauge("token_instances", "Server instances that counted uses of tokens yesterday and today")
    number.add_metric([], instances[0].all_instances if instances else 0)
    share = _gauge("token_busiest_instance_ratio", "Share of the busiest instance in these uses, 0 to 1")
    uses = _gauge("token_instance_uses", "Uses of tokens yesterday and today, of the ten busiest instances", "instance")
    for one in instances:
        uses.add_metric([one.instance_id], one.uses)
    if instances and instances[0].all_uses:
        share.add_metric([], instances[0].uses / instances[0].all_uses)
    yield from (number, share, uses)


def _of_backlog(backlog: list[Backlog]) -> Iterator[Metric]:
    waiting = _gauge(
        "backlog_announced_keys",
        "Keys that our recorder noted as written (events: queue items) and that are not drained yet",
        "family",
    )
    batches = _gauge("backlog_open_batches", "Batches that a drain began and did not finish", "family")
    age = _gauge("backlog_oldest_batch_age_seconds", "Age of the oldest unfinished batch; 0 without any", "family")
    for one in backlog:
        waiting.add_metric([one.family], one.waiting)
        batches.add_metric([one.family], one.open_batches)
        age.add_metric([one.family], one.oldest_open_seconds)
    yield from (waiting, batches, age)


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", documentation, labels=labels)

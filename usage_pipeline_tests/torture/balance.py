"""The count of both sides: what was written, what is stored, and whether anything is left between them."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from unittest import mock

import psycopg
import redis
from psycopg import sql
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.event_queue import page_id
from usage_pipeline.drain.rounds import ALL_FAMILIES, DrainImpossible, drain_once
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.redis import client
from usage_pipeline_tests.torture.load import Counts

# Family -> (totals, raw, the id's column, its counts as columns of totals or sums over raw)
_SIDES = {
    "api_key": (
        "usage.api_keys",
        "raw.api_key_deltas",
        "api_key_id",
        ("total_requests", "successful_requests", "failed_requests", "total_file_size", "total_files_uploaded"),
    ),
    "provider": ("usage.provider_usage", "raw.provider_deltas", "api_key_id", ("upload_count", "total_file_size")),
    "token": ("usage.api_access_tokens", "raw.token_deltas", "token_id", ("usage_count",)),
    "event": (None, "raw.request_events", "api_key_id", ("file_size",)),
}
_LIVE = ("apikey:*:metrics", "provider:*:metrics", "token_usage:*", "event_queue", "usage_pipeline:claim:*")


@dataclass(frozen=True, slots=True)
class Balance:
    """Sums over all families, ids and counts. `differing` are the (family, id) of which more or less is stored."""

    written: int
    stored: int
    lost: int
    doubled: int
    differing: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """What a killed drainer left: a batch that is claimed and not applied, one that is applied and not released."""

    is_claimed: bool
    is_applied: bool


def compare(written: Counts, stored: Counts) -> Balance:
    """Per family, id and count: a surplus of one never hides the loss of another."""
    missing, surplus = written - stored, stored - written
    return Balance(
        written=written.total(),
        stored=stored.total(),
        lost=missing.total(),
        doubled=surplus.total(),
        differing=frozenset((family, name) for family, name, _ in (*missing, *surplus)),
    )


def stored(postgres: psycopg.Connection) -> Counts:
    """The running totals, and of events what is stored."""
    counts: Counts = Counter()
    for family, (totals, raw, id_column, fields) in _SIDES.items():
        counts += _sums(postgres, family, totals or raw, id_column, fields)
    return counts


def problems(postgres: psycopg.Connection) -> list[str]:
    """Whatever must not be there at rest, one line each."""
    found = []
    for family, (totals, raw, id_column, fields) in _SIDES.items():
        if totals and _sums(postgres, family, totals, id_column, fields) != _sums(
            postgres, family, raw, id_column, fields
        ):
            found.append(f"{family}: totals differ from the sums of raw")
    [(letters,)] = postgres.execute("select count(*) from ops.dead_letters").fetchall()
    if letters:
        found.append(f"{letters} dead letters")
    [(gap,)] = postgres.execute(
        "select coalesce(sum(keys - stored_rows - dead_letters + refused_members - duplicates), 0) from ops.sync_batches"
    ).fetchall()
    if gap:
        found.append(f"the ledger's keys exceed what became of them by {gap}")
    return found


def flagged(postgres: psycopg.Connection) -> set[tuple[str, str]]:
    """The (family, id) that a batch flagged as uncertain has counted."""
    found = set()
    for family, (_, raw, id_column, _) in _SIDES.items():
        query = sql.SQL("select distinct {} from {} join ops.sync_batches using (batch_id) where is_uncertain").format(
            sql.Identifier(id_column), sql.Identifier(*raw.split("."))
        )
        found.update((family, name) for (name,) in postgres.execute(query))
    return found


def drain_until_rest(settings: Settings, timeout_seconds: float = 120) -> None:
    """Drains until nothing is live, claimed, open or unreleased. All other drainers must have ended.

    Raises TimeoutError, which says what is left.
    """
    deadline = time.monotonic() + timeout_seconds
    with _no_grace():
        while True:
            with suppress(DrainImpossible):
                drain_once(settings, wait_for_lock_seconds=10)
                left = _left(settings)
                if not left:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not at rest after {timeout_seconds:.0f} s: {left[:10]}")


def left_by(postgres: psycopg.Connection, server: redis.Redis, batch_ids: Iterable[str]) -> LeftBehind:
    """What is not settled of these batches, a moment after their drainer was killed."""
    ids = list(batch_ids)
    candidates = [*ids, *(page_id(batch_id, 0) for batch_id in ids)]
    rows = postgres.execute(
        "select split_part(batch_id, '/', 1), released_at is null from ops.sync_batches where batch_id = any(%s)",
        (candidates,),
    ).fetchall()
    is_open = {
        batch_id
        for family in ALL_FAMILIES
        for batch_id, server_name in zip(ids, server.hmget(names.open_batches(family), ids) if ids else (), strict=True)
        if server_name
    }
    return LeftBehind(
        bool(is_open - {batch_id for batch_id, _ in rows}), any(is_unreleased for _, is_unreleased in rows)
    )


@contextmanager
def _no_grace() -> Iterator[None]:
    """A batch that was begun and never filled is forgotten at once: whoever could have filled it has ended."""
    with (
        mock.patch("usage_pipeline.drain.protocol.FORGET_EMPTY_BATCH_MS", -1),
        mock.patch("usage_pipeline.drain.event_queue.FORGET_EMPTY_BATCH_MS", -1),
    ):
        yield


def _left(settings: Settings) -> list[str]:
    with closing(client(settings)) as server, closing(connect(settings)) as postgres:
        # What a scan of this very process found is no answer for the next round.
        for pause in server.scan_iter(f"{recorder_keys.NAMESPACE}scanned:*"):
            server.delete(pause)
        live = [key.decode() for pattern in _LIVE for key in server.scan_iter(pattern, count=1_000)]
        opened = [
            f"open: {batch.decode()}" for name in ALL_FAMILIES for batch in server.hkeys(names.open_batches(name))
        ]
        rows = postgres.execute("select batch_id from ops.sync_batches where released_at is null")
        return [*live, *opened, *(f"unreleased: {batch_id}" for (batch_id,) in rows)]


def _sums(postgres: psycopg.Connection, family: str, table: str, id_column: str, fields: tuple[str, ...]) -> Counts:
    counted = fields if family != "event" else (*fields, "events")
    columns = [
        sql.SQL("count(*)") if name == "events" else sql.SQL("sum({})::bigint").format(sql.Identifier(name))
        for name in counted
    ]
    query = sql.SQL("select {id}, {columns} from {table} group by {id}").format(
        id=sql.Identifier(id_column), columns=sql.SQL(", ").join(columns), table=sql.Identifier(*table.split("."))
    )
    return Counter(
        {
            (family, name, field): count
            for name, *counts in postgres.execute(query)
            for field, count in zip(counted, counts, strict=True)
            if count
        }
    )

"""What every fault needs: a database, live writers and drain processes around one Redis address, and the count at the end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import redis

from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.settings import Settings
from usage_pipeline_tests.torture import balance
from usage_pipeline_tests.torture.drainers.parent import Drainers
from usage_pipeline_tests.torture.drainers.process import settings_of
from usage_pipeline_tests.torture.load import Counts, Load, LoadPlan
from usage_pipeline_tests.torture.servers import Stage


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table. `lost` and `doubled` are against the writes that are part of Redis's history."""

    fault: str
    times: int
    written: int
    stored: int
    lost: int
    doubled: int
    note: str
    problems: tuple[str, ...]

    @property
    def has_passed(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class Arena:
    """The servers' addresses, the writers and the drain processes of one fault."""

    stage: Stage
    database_url: str
    settings: Settings
    load: Load
    drainers: Drainers
    server: redis.Redis

    @contextmanager
    def postgres(self) -> Iterator[psycopg.Connection]:
        with self.stage.admin(self.database_url) as connection:
            yield connection

    def start_drainers(self, **options: Any) -> None:
        """Two that ask for the lock, so that one may find it taken, and one that does without."""
        for asks_for_lock in (True, True, False):
            self.drainers.start(asks_for_lock=asks_for_lock, **options)

    def outcome(
        self,
        fault: str,
        times: int,
        note: str = "",
        *,
        may_double: bool = False,
        recorded: Callable[[Counts], Counts] = lambda stored: Counts(),
    ) -> Outcome:
        """Ends writers and drainers, drains until rest, and compares. `may_double`: but every difference must be flagged.

        `recorded`: what others than the load have written, given what is stored.
        """
        # A fail-over right after the start may forget every write: the last server takes some too.
        self.load.wait_for_writes()
        self.load.stop()
        self.drainers.check()
        self.drainers.kill_all()
        self.load.look_back()
        balance.drain_until_rest(self.settings)
        with self.postgres() as postgres:
            found = balance.problems(postgres)
            stored = balance.stored(postgres)
            counted = balance.compare(self.load.written() + recorded(stored), stored)
            silent = counted.differing - balance.flagged(postgres)
        if counted.lost:
            found.append(f"lost: {counted.lost}")
        if counted.doubled and not may_double:
            found.append(f"doubled: {counted.doubled}")
        if silent:
            found.append(f"differences that no flagged batch has counted: {sorted(silent)[:5]}")
        if not counted.written or not times:
            found.append("nothing happened")
        return Outcome(fault, times, counted.written, counted.stored, counted.lost, counted.doubled, note, tuple(found))


@contextmanager
def arena(
    stage: Stage,
    redis_port: int,
    seed: int,
    *,
    plan: LoadPlan | None = None,
    chunk_keys: int = 20,
    barrier: str = "auto",
    usage_timezone: str = "UTC",
) -> Iterator[Arena]:
    """An arena around the Redis that answers on that port. Its writers and drainers are not started yet."""
    with ExitStack() as stack:
        database_url = stack.enter_context(stage.database())
        given = {
            "database_url": database_url,
            "redis_url": f"redis://{LOOPBACK}:{redis_port}/0",
            "drain_barrier": barrier,
            "drain_chunk_keys": chunk_keys,
            "redis_timeout_seconds": 10.0,
            "usage_timezone": usage_timezone,
        }
        with psycopg.connect(database_url, autocommit=True) as postgres:
            # One that only PostgreSQL knows, which `migrate` would refuse.
            postgres.execute("update ops.calendar set time_zone = %s", (usage_timezone,))
        load = Load(redis_port, seed, plan)
        drainers = stack.enter_context(Drainers(stage.drainer_parent, given))
        server = stack.enter_context(closing(redis.Redis(host=LOOPBACK, port=redis_port, socket_timeout=10)))
        stack.callback(load.stop)
        yield Arena(stage, database_url, settings_of(given), load, drainers, server)

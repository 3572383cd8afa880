"""A round: it drains several families once. Also the loop of the worker, which repeats rounds. Opens the connections."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import psycopg
import redis

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.event_queue import EVENT, QueueDrain
from usage_pipeline.drain.families import BY_NAME, TOKEN
from usage_pipeline.drain.protocol import BarrierFellShort, DrainLimits, DrainReport, FamilyDrain
from usage_pipeline.drain.quotas import publish_quotas
from usage_pipeline.drain.sources.cluster import ClusterSource, open_sources
from usage_pipeline.drain.sources.node import RedisSource
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.drain.turns import drain_in_turns
from usage_pipeline.process import process_name
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import PostgresUnavailable, connect, first_line, is_mended_by_time
from usage_pipeline.storage.redis import SLOT_ELSEWHERE, RedisUnavailable
from usage_pipeline.storage.redis_cluster import AnyRedis, translated_cluster_errors
from usage_pipeline.texts import counted

log = logging.getLogger(__name__)

# Families, in the order in which they are drained. The two groups have the two intervals of contracts §5.
METRICS_FAMILIES = ("api_key", "provider", "event")
TOKEN_FAMILIES = ("token",)
ALL_FAMILIES = METRICS_FAMILIES + TOKEN_FAMILIES

_PUBLISH_QUOTAS_SECONDS = 60
_RETRY_SECONDS = 2.0
# An interval may be an hour, and who watches the worker wants to know sooner. A lost connection is noticed by then, too.
_BEAT_SECONDS = 60.0


class DrainImpossible(Exception):
    """A server does not answer, or cannot promise durability. Nothing is lost. One line says what happened and what follows."""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """The result of one round. `busy` are the families whose lock another drainer held."""

    families: list[DrainReport] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def keys(self) -> int:
        return sum(report.keys for report in self.families)

    @property
    def dead_letters(self) -> int:
        return sum(report.dead_letters for report in self.families)

    @property
    def left_claimed(self) -> int:
        return sum(report.left_claimed for report in self.families)

    @property
    def is_complete(self) -> bool:
        return not self.busy and all(report.is_complete for report in self.families)


def drain_once(
    settings: Settings,
    families: Sequence[str] = ALL_FAMILIES,
    *,
    budget_seconds: float = float("inf"),
    wait_for_lock_seconds: float = 0.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> RoundReport:
    """Drains each family within its share of the budget (turns.py). Idempotent. Any number of drainers may run at once.

    PostgreSQL is asked first. If it does not answer, nothing is claimed: Redis is the safest place for what is not stored yet.
    Raises DrainImpossible.
    """
    limits = _limits(settings, should_stop, time.monotonic() + budget_seconds)
    with _translated_errors(), ExitStack() as stack:
        scan_every = _intervals(settings) if budget_seconds < float("inf") else None
        drains = stack.enter_context(_open_drains(settings, scan_every))
        drains.tell_of_server()
        started = time.monotonic()
        busy: list[str] = []

        def drain(name: str, share: DrainLimits) -> DrainReport | None:
            with drains.store.lock(name, wait_seconds=wait_for_lock_seconds) as is_ours:
                if is_ours:
                    return drains.run(name, share)
                busy.append(name)
                return None

        reports = drain_in_turns(families, limits, drain)
        drains.publish_quotas_when_due()
        return RoundReport(reports, busy, time.monotonic() - started)


def drain_until_empty(
    settings: Settings,
    families: Sequence[str] = ALL_FAMILIES,
    *,
    wait_for_lock_seconds: float = 30.0,
    should_stop: threading.Event,
) -> RoundReport:
    """Calls `drain_once`, and again if claims were too young for the barrier by age. Raises DrainImpossible."""
    report = drain_once(settings, families, wait_for_lock_seconds=wait_for_lock_seconds, should_stop=should_stop.is_set)
    if report.left_claimed and not should_stop.wait(_RETRY_SECONDS + 0.1):
        again = drain_once(
            settings, families, wait_for_lock_seconds=wait_for_lock_seconds, should_stop=should_stop.is_set
        )
        return RoundReport(report.families + again.families, again.busy, report.seconds + again.seconds)
    return report


def watch(
    settings: Settings,
    families: Sequence[str],
    *,
    should_stop: threading.Event,
    on_round: Callable[[RoundReport], None],
    on_beat: Callable[[str], None] = lambda _: None,
) -> None:
    """Drains again and again, each family at its interval, until `should_stop` is set. It finishes the batch in hand.

    It holds the locks of the families all the time, so the sensor of the code location drains nothing meanwhile. If a server
    is away, that is logged once, and the server is tried again until it is back.

    `on_beat` is called after each try, and at least once a minute in between: with what hinders the drain, or with nothing.
    """
    complaint, has_begun = "", False
    while not should_stop.is_set():
        try:
            with _translated_errors(), _open_drains(settings, _intervals(settings)) as drains, ExitStack() as locks:
                for name in families:
                    if not locks.enter_context(drains.store.lock(name, wait_seconds=_RETRY_SECONDS)):
                        raise DrainImpossible(f"another drainer works on {name}; this one waits for it")
                if not has_begun:
                    # Each start says it; what changes afterwards is told once.
                    drains.tell_of_server(anew=True)
                    has_begun = True
                if complaint:
                    log.info("drain: goes on")
                    complaint = ""
                _watch_connected(settings, drains, families, should_stop, on_round, on_beat)
        except DrainImpossible as problem:
            if str(problem) != complaint:
                complaint = str(problem)
                log.warning("drain: %s", complaint)
            on_beat(complaint)
            should_stop.wait(_RETRY_SECONDS)


def _watch_connected(
    settings: Settings,
    drains: "_Drains",
    families: Sequence[str],
    should_stop: threading.Event,
    on_round: Callable[[RoundReport], None],
    on_beat: Callable[[str], None],
) -> None:
    due, intervals = dict.fromkeys(families, 0.0), _intervals(settings)
    while not should_stop.is_set():
        started = time.monotonic()
        ready = [name for name in families if due[name] <= started]
        limits = _limits(settings, should_stop.is_set, started + settings.drain_budget_seconds)
        drains.check()
        drains.tell_of_server()
        if ready:
            reports = drain_in_turns(ready, limits, drains.run)
            drains.publish_quotas_when_due()
            on_round(RoundReport(reports, [], time.monotonic() - started))
        on_beat("")
        for name in ready:
            due[name] = started + intervals[name]
        should_stop.wait(min(_BEAT_SECONDS, max(0.0, min(due.values()) - time.monotonic())))


@dataclass(frozen=True, slots=True)
class _Drains:
    """The open connections of a round: one to PostgreSQL, two to Redis (see FamilyDrain), one to Redis for single commands."""

    postgres: psycopg.Connection
    redis: AnyRedis
    claiming: RedisSource | ClusterSource
    releasing: RedisSource | ClusterSource
    store: UsageStore
    token_interval_ms: int
    # Family -> the Redis server that it was last drained from on these connections.
    servers: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, limits: DrainLimits) -> DrainReport:
        server = self.claiming.facts.identity
        is_uncertain = self.servers.get(name) != server and self.store.flag_forgettable(
            name, server, partial(self.claiming.settled, name)
        )
        self.servers[name] = server
        if is_uncertain and self._is_news(name, server):
            log.warning(
                "drain: %s: Redis was started again or is another server, and does not know the end of what was drained; "
                "batches around the change are flagged: they may count twice",
                name,
            )
        if name == EVENT.name:
            report = QueueDrain(self.releasing, self.store, limits).run(is_uncertain=is_uncertain)
        else:
            family = BY_NAME[name]
            drain = FamilyDrain(
                family, claiming=self.claiming, releasing=self.releasing, store=self.store, limits=limits
            )
            report = drain.run(is_uncertain=is_uncertain)
            if family is TOKEN:
                self._note_expiring()
        if report.keys:
            log.info(
                "drain: %s: %s, %s", name, counted(report.keys, "key"), counted(report.dead_letters, "dead letter")
            )
        return report

    def _is_news(self, name: str, server: str) -> bool:
        """Whether no drain has said yet that the family is drained from this server now.

        An idle family stays in this state until its next batch, and each tick of the sensor begins anew: Redis remembers.
        """
        with suppress(redis.OutOfMemoryError):
            return bool(self.redis.set(names.drained_server(name), server, get=True) != server.encode())
        return True

    def _note_expiring(self) -> None:
        """Notes token keys with less than half an interval to live. Other keys like them may have expired before a drain."""
        ttls_ms = self.claiming.take_ttls_ms()
        expiring = [ttl_ms for ttl_ms in ttls_ms if ttl_ms < self.token_interval_ms / 2]
        if expiring:
            log.warning(
                "drain: token: about to expire: %d of a sample of %s", len(expiring), counted(len(ttls_ms), "key")
            )
            self.store.note_expiring_tokens(len(ttls_ms), len(expiring), min(expiring) / 1000)

    def check(self) -> None:
        """Called before a round on open connections. PostgreSQL must answer before a claim, and the barrier must fit Redis."""
        self.postgres.execute("select 1")
        self.claiming.plan_anew()
        self.releasing.plan_anew()

    def tell_of_server(self, *, anew: bool = False) -> None:
        """Logs what is wrong with Redis as it is set up, and when that is over. Redis remembers it, since ticks begin anew."""
        wrong = [text for text in (self.claiming.plan.warning, self.claiming.facts.eviction.warning) if text]
        told = [] if anew else _text(self.redis.get(names.TOLD)).splitlines()
        if wrong == told:
            return
        for text in wrong:
            if text not in told:
                log.warning("drain: %s", text)
        for text in told:
            if text not in wrong:
                log.info("drain: this is over: %s", text)
        with suppress(redis.OutOfMemoryError):
            self.redis.set(names.TOLD, "\n".join(wrong))

    def publish_quotas_when_due(self) -> None:
        # A full Redis must not fail a round whose drains succeeded. It has room again soon, and a later round publishes.
        with suppress(redis.OutOfMemoryError):
            if self.redis.set(names.scan_pause("quotas"), process_name(), nx=True, ex=_PUBLISH_QUOTAS_SECONDS):
                publish_quotas(self.postgres, self.redis)


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


@contextmanager
def _open_drains(settings: Settings, scan_every: Mapping[str, float] | None) -> Iterator[_Drains]:
    with ExitStack() as stack:
        # PostgreSQL first: without it nothing may be claimed.
        connection = stack.enter_context(closing(connect(settings)))
        pooled, claiming, releasing = stack.enter_context(open_sources(settings, settings.drain_barrier, scan_every))
        store = UsageStore(connection, usage_timezone=settings.usage_timezone, drained_by=process_name())
        yield _Drains(connection, pooled, claiming, releasing, store, settings.api_token_sync_interval_ms)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        with translated_cluster_errors():
            yield
    except PostgresUnavailable as error:
        raise DrainImpossible(f"{error}; nothing is claimed, the counters wait in Redis") from None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        # Of ops.expect_time_zone: a rezone began meanwhile.
        raise DrainImpossible(f"{first_line(error)}; the next drain recovers what is claimed") from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise DrainImpossible(
            f"the role of DATABASE_URL may not drain: {first_line(error)}; take usage_drain or the owner of the database, or "
            "let the owner run: usage-pipeline migrate"
        ) from None
    except psycopg.ProgrammingError as error:
        raise DrainImpossible(
            f"the schema is missing or old: {first_line(error)}; run: usage-pipeline migrate"
        ) from None
    except psycopg.Error as error:
        if not is_mended_by_time(error):
            raise
        message = f"PostgreSQL went away: {first_line(error)}; the next drain recovers what is claimed"
        raise DrainImpossible(message) from None
    except (RedisUnavailable, BarrierFellShort) as error:
        raise DrainImpossible(f"{error}; the next drain recovers what is claimed") from None
    except SLOT_ELSEWHERE as error:
        raise DrainImpossible(
            f"Redis Cluster is moving a slot: {first_line(error)}; the next drain recovers what is claimed"
        ) from None
    except redis.RedisError as error:
        raise DrainImpossible(
            f"Redis refused a command: {first_line(error)}; the next drain recovers what is claimed"
        ) from None


def _intervals(settings: Settings) -> dict[str, float]:
    """Seconds from round to round, by family."""
    return {
        **dict.fromkeys(METRICS_FAMILIES, settings.metrics_sync_interval_ms / 1000),
        **dict.fromkeys(TOKEN_FAMILIES, settings.api_token_sync_interval_ms / 1000),
    }


def _limits(settings: Settings, should_stop: Callable[[], bool], deadline: float) -> DrainLimits:
    return DrainLimits(settings.drain_chunk_keys, settings.possible_times, should_stop, deadline)

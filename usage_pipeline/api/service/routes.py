"""Name and links of the service, and whether its parts work."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
import redis
import redis.asyncio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import Response
from usage_recorder import sentinel

from usage_pipeline.alerting.record import HEARTBEAT
from usage_pipeline.api import problems
from usage_pipeline.api.answers.negotiation import prefers_html
from usage_pipeline.api.dashboard.routes import dashboard
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect_async, first_line
from usage_pipeline.storage.servers.eviction import Eviction, eviction_of
from usage_pipeline.storage.sql import load

# Each part is asked for at most so long, and the answer serves everyone who asks within a second: the route needs no token.
PART_SECONDS = 2.0
_KEPT_SECONDS = 1.0
_log = logging.getLogger(__name__)
_PAGE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
router = APIRouter(tags=["service"])
Up = Literal["up", "down"]


class Health(BaseModel):
    """Whether the service and its parts work."""

    status: Literal["ok", "unavailable"] = Field(description="ok when all parts are up")
    database: Up = Field(description="PostgreSQL answers and can be written to")
    redis: Up = Field(description="Redis answers")
    redis_may_delete_counters: bool | None = Field(
        description="Whether Redis deletes keys when its memory is full (a maxmemory-policy other than noeviction, with a "
        "maxmemory); null: it is down, or does not tell"
    )
    scheduler: Literal["up", "down", "off"] = Field(
        description="down: the Dagster daemon has shown no sign of life for HEARTBEAT_SECONDS, though it once did; "
        "off: there never was one, or ENABLE_JOB_SCHEDULER is false, or the database is down"
    )
    last_tick_age_seconds: float | None = Field(
        description="Seconds since its last sign of life; null when there is none"
    )
    timestamp: datetime = Field(description="When the service checked this")


class About(BaseModel):
    """The service."""

    name: str
    version: str
    links: dict[str, str]


@dataclass(slots=True)
class Heartbeat:
    """The last sign of life of the Dagster daemon, which the sensor `alerts` leaves in PostgreSQL."""

    age_seconds: float | None = None

    def state(self, settings: Settings) -> Literal["up", "down", "off"]:
        """up, down or off. Only a scheduler that once gave a sign of life can be down: a service may run without Dagster."""
        if not settings.enable_job_scheduler or self.age_seconds is None:
            return "off"
        return "up" if self.age_seconds <= settings.heartbeat_seconds else "down"


class Checks:
    """The last answer, and the task that makes the next."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._health: Health | None = None
        self._found_at = 0.0
        self._told = ""

    async def tell_eviction(self) -> bool | None:
        """Whether Redis may delete counters. Logs it when that has changed, and at first if it is bad."""
        try:
            async with asyncio.timeout(PART_SECONDS):
                found = await _ask_eviction(self._settings)
        except (redis.RedisError, OSError, TimeoutError):
            return None  # whether it is down is another question
        if found.warning != self._told:
            if found.warning:
                _log.warning("%s", found.warning)
            else:
                _log.info("Redis deletes no counters any more (maxmemory-policy noeviction, or no maxmemory)")
            self._told = found.warning
        return None if found.policy is None else found.loses_keys

    async def health(self) -> Health:
        async with self._lock:
            if self._health is None or time.monotonic() - self._found_at > _KEPT_SECONDS:
                heartbeat = Heartbeat()
                database, cache, may_delete = await asyncio.gather(
                    _asked("PostgreSQL", _ask_postgres(self._settings, heartbeat)),
                    _asked("Redis", _ask_redis(self._settings)),
                    self.tell_eviction(),
                )
                scheduler = heartbeat.state(self._settings)
                is_ok = (database, cache) == ("up", "up") and scheduler != "down"
                self._health = Health(
                    status="ok" if is_ok else "unavailable",
                    database=database,
                    redis=cache,
                    redis_may_delete_counters=may_delete,
                    scheduler=scheduler,
                    last_tick_age_seconds=heartbeat.age_seconds,
                    timestamp=datetime.now(UTC),
                )
                self._found_at = time.monotonic()
            return self._health


@router.get("/healthz", summary="Whether the parts work", response_model=Health, responses={503: {"model": Health}})
async def healthz(request: Request) -> Response:
    """200 when PostgreSQL, Redis and the scheduler are up (or there is no scheduler), 503 when one of them is down.

    This route is for monitors. Ingest also works without Redis and the scheduler, so a load balancer must ask `/` instead.
    """
    checks: Checks = request.app.state.checks
    health = await checks.health()
    return JSONResponse(health.model_dump(mode="json"), 200 if health.status == "ok" else 503)


@router.head("/", include_in_schema=False)
@router.get("/", summary="Name, version, links", response_model=About, responses={**_PAGE, **problems.responses(500)})
async def about(request: Request) -> Response:
    """Name, version and links. A browser, which asks for text/html, gets the dashboard."""
    if prefers_html(request.headers.get("accept", "")):
        return dashboard(request)
    links = {
        "documentation": "/docs",
        "openapi": "/openapi.json",
        "health": "/healthz",
        "metrics": "/metrics",
        "events": "/api/v1/ingest/requests:bulk",
        "archives": "/api/v1/ingest/archives:bulk",
        "usage": "/api/usage/summary",
        "issues": "/api/stats/daily",
        "rankings": "/api/issues/popular",
    }
    document = About(name="usage_pipeline", version=request.app.version, links=links)
    return JSONResponse(document.model_dump(), headers={"Vary": "Accept"})


async def _asked(what: str, question: Awaitable[None]) -> Up:
    try:
        async with asyncio.timeout(PART_SECONDS):
            await question
    except (psycopg.Error, redis.RedisError, OSError, TimeoutError) as error:
        _log.warning("health: %s is down: %s", what, first_line(error))
        return "down"
    return "up"


async def _ask_postgres(settings: Settings, heartbeat: Heartbeat) -> None:
    # A connection of its own: those of the pool may all be at work, and one that waits can be given up only this way.
    connection = await connect_async(settings)
    async with connection:
        # A schema that is older than heartbeats has none.
        with suppress(psycopg.errors.UndefinedTable):
            found = await connection.execute(load("api/service/select_heartbeat_age"), {"name": HEARTBEAT})
            row = await found.fetchone()
            heartbeat.age_seconds = row[0] if row else None


async def _ask_redis(settings: Settings) -> None:
    async with _redis_of(settings) as client:
        await client.ping()


async def _ask_eviction(settings: Settings) -> Eviction:
    """Of the server in REDIS_URL alone: the drain looks at all of a cluster."""
    async with _redis_of(settings) as client:
        with suppress(redis.ResponseError):
            info = {name: str(value) for name, value in (await client.info("memory")).items()}
            return eviction_of(info)
    return Eviction(None)


def _redis_of(settings: Settings) -> redis.asyncio.Redis:
    pool = sentinel.async_pool(settings.redis_dsn.get_secret_value(), protocol=2, socket_timeout=PART_SECONDS)
    return redis.asyncio.Redis.from_pool(pool)

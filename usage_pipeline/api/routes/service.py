"""What the service says about itself: its name and links, and whether its parts are there."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import psycopg
import redis
import redis.asyncio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from usage_pipeline.api import problems
from usage_pipeline.api.routes.dashboard import dashboard_file, prefers_html
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import APPLICATION_NAME, first_line

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
    timestamp: datetime = Field(description="When that was found out")


class About(BaseModel):
    """The service."""

    name: str
    version: str
    links: dict[str, str]


class Checks:
    """The last answer, and the one who asks for the next."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._health: Health | None = None
        self._found_at = 0.0

    async def health(self) -> Health:
        async with self._lock:
            if self._health is None or time.monotonic() - self._found_at > _KEPT_SECONDS:
                database, cache = await asyncio.gather(
                    _asked("PostgreSQL", _ask_postgres(self._settings)), _asked("Redis", _ask_redis(self._settings))
                )
                status: Literal["ok", "unavailable"] = "ok" if (database, cache) == ("up", "up") else "unavailable"
                self._health = Health(status=status, database=database, redis=cache, timestamp=datetime.now(UTC))
                self._found_at = time.monotonic()
            return self._health


@router.get("/healthz", summary="Whether the parts work", response_model=Health, responses={503: {"model": Health}})
async def healthz(request: Request) -> Response:
    """200 when PostgreSQL and Redis are up, 503 when one is down. Ingest works without Redis, too."""
    checks: Checks = request.app.state.checks
    health = await checks.health()
    return JSONResponse(health.model_dump(mode="json"), 200 if health.status == "ok" else 503)


@router.get("/", summary="Name, version, links", response_model=About, responses={**_PAGE, **problems.responses(500)})
async def about(request: Request) -> Response:
    """Where to go from here. A browser, which asks for text/html, gets the dashboard."""
    if prefers_html(request.headers.get("accept", "")):
        return dashboard_file("index.html")
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
    document = About(name="usage_pipeline", version=version("usage-pipeline"), links=links)
    return JSONResponse(document.model_dump(), headers={"Vary": "Accept"})


async def _asked(what: str, question: Awaitable[None]) -> Up:
    try:
        async with asyncio.timeout(PART_SECONDS):
            await question
    except (psycopg.Error, redis.RedisError, OSError, TimeoutError) as error:
        _log.warning("health: %s is down: %s", what, first_line(error))
        return "down"
    return "up"


async def _ask_postgres(settings: Settings) -> None:
    # A connection of its own: those of the pool may all be at work, and one that waits can be given up only this way.
    connection = await psycopg.AsyncConnection.connect(
        settings.database_url.get_secret_value(),
        autocommit=True,
        application_name=APPLICATION_NAME,
        target_session_attrs="read-write",
    )
    async with connection:
        await connection.execute("select 1")


async def _ask_redis(settings: Settings) -> None:
    client = redis.asyncio.Redis.from_url(
        settings.redis_dsn.get_secret_value(), protocol=2, socket_timeout=PART_SECONDS
    )
    async with client:
        await client.ping()

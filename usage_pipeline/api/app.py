"""The HTTP service on one screen: its parts, its routes, its documentation."""

import asyncio
import ctypes
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp
from usage_recorder.async_recorder import AsyncRecorder

from usage_pipeline.access.audit import AuditLog
from usage_pipeline.access.cache import TokenCache
from usage_pipeline.access.proxies import TrustedProxies
from usage_pipeline.access.quota import TokenQuota
from usage_pipeline.access.sessions import Sessions
from usage_pipeline.access.uses import TokenUses
from usage_pipeline.api import problems
from usage_pipeline.api.answers.headers import AnswerHeaders
from usage_pipeline.api.answers.heads import Heads
from usage_pipeline.api.auth import Admission, Gate
from usage_pipeline.api.budgets import routes as budgets
from usage_pipeline.api.dashboard import routes as dashboard
from usage_pipeline.api.documentation import routes as documentation
from usage_pipeline.api.explore import changes
from usage_pipeline.api.explore import requests as single_requests
from usage_pipeline.api.explore import routes as explore
from usage_pipeline.api.external import routes as external
from usage_pipeline.api.external.posts import PostDesk
from usage_pipeline.api.ingest import corrections, formats, otlp
from usage_pipeline.api.ingest import routes as ingest
from usage_pipeline.api.ingest.budget import Room
from usage_pipeline.api.metrics import routes as metrics_route
from usage_pipeline.api.metrics.counts import Metrics, MetricsMiddleware
from usage_pipeline.api.metrics.exposition import Exposition
from usage_pipeline.api.metrics.pipeline import PipelineMetrics
from usage_pipeline.api.month import routes as month
from usage_pipeline.api.places import Places
from usage_pipeline.api.rankings import routes as rankings
from usage_pipeline.api.rankings.reads import RankingReads
from usage_pipeline.api.service import routes as service
from usage_pipeline.api.session import routes as session
from usage_pipeline.api.stats import routes as stats
from usage_pipeline.api.storing import Storing
from usage_pipeline.api.usage import routes as usage
from usage_pipeline.api.usage.downloads import Downloads
from usage_pipeline.log_lines import log_to_stderr
from usage_pipeline.process import process_name
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.quick_redis import QuickRedis

_DESCRIPTION = """
Stores LLM usage events and message archives, each once by its `event_id`, however often it is sent. Shows usage of API keys,
tokens, storage providers, merchants and models, issue statistics, and rankings. A token may have a quota of requests a day:
its answers then have RateLimit headers, and a 429 says when the next day begins.
Errors are problem documents (RFC 9457). Each route lists its limits.
"""
# Of mallopt(3): M_ARENA_MAX; M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, which glibc would raise to 32 MB and 64 MB by itself.
_MALLOC = ((-8, 2), (-3, 256 * 1024), (-1, 256 * 1024))
# A fifth of what Python has.
_SWITCH_SECONDS = 0.001
# What a page of another origin may read of an answer, besides its body and type.
_EXPOSED_HEADERS = (
    "Content-Disposition",
    "Link",
    "RateLimit-Limit",
    "RateLimit-Policy",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "X-Cache",
)


class _Service(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        # Around Starlette's own answer to a defect as well, which is outside of all middleware that an app can add.
        return AnswerHeaders(super().build_middleware_stack())


def create_app(settings: Settings) -> FastAPI:
    """The service. It connects only when a request needs it, so it also starts while PostgreSQL or Redis is down."""

    metrics = Metrics.of(settings)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        for files in (dashboard.FILES, documentation.FILES):
            await asyncio.to_thread(files.load)
        storing = Storing(settings)
        storing.pool.open(wait=False)
        cache = QuickRedis.of(settings)
        tokens = TokenCache.of(settings, cache, storing.pool.connection, partial(metrics.cache_lookup, "token"))
        recorder = AsyncRecorder.connect(
            settings.redis_dsn.get_secret_value(),
            timezone=settings.timezone,
            retention_days=settings.retention_days,
            on_failure=metrics.recorder_failed,
        )
        metrics.watch_kept(lambda: recorder.kept)
        app.state.settings = settings
        app.state.storing = storing
        app.state.room = Room(settings)
        quota = TokenQuota(cache, settings.timezone)
        uses = TokenUses(recorder, process_name())
        app.state.sessions = sessions = Sessions(storing.pool.connection, tokens.lookups)
        app.state.gate = Gate(tokens, sessions, quota, uses)
        app.state.rankings = rankings_read = RankingReads(cache, storing, metrics)
        downloads = Downloads(storing, settings.db_pool_size)
        # Half of the connections: the others are for what is answered at once.
        questions = Places(max(1, settings.db_pool_size // 2), "questions", "ask again later")
        app.state.reads = usage.Reads(settings, storing, downloads, recorder, cache, questions)
        app.state.checks = checks = service.Checks(settings)
        app.state.openapi_document = documentation.OpenapiDocument(app)
        app.state.exposition = Exposition(metrics, PipelineMetrics(settings))
        app.state.posts = PostDesk(settings, storing.pool, metrics)
        telling = asyncio.create_task(checks.tell_eviction())
        try:
            yield
        finally:
            telling.cancel()
            await app.state.posts.close()
            await uses.close()
            await rankings_read.close()
            await tokens.close()
            storing.close()
            await recorder.close()
            await cache.close()
            app.state.audit.close()

    app = _Service(
        title="usage_pipeline",
        description=_DESCRIPTION,
        version=version("usage-pipeline"),
        lifespan=running,
        # Those of FastAPI load scripts from elsewhere, and are made for each request: ours are in `documentation/`.
        openapi_url=None,
        # A redirect would go to whatever host the request names, and to http:// behind a proxy that does TLS.
        redirect_slashes=False,
    )
    app.state.audit = AuditLog.of(settings)
    app.state.proxies = TrustedProxies.of(settings)
    problems.install(app)
    app.add_middleware(Heads)
    app.add_middleware(Admission)
    app.state.metrics = metrics
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.include_router(service.router)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "Content-Encoding"),
            expose_headers=_EXPOSED_HEADERS,
        )
    for module in (
        dashboard,
        month,
        documentation,
        session,
        ingest,
        formats,
        otlp,
        corrections,
        usage,
        explore,
        single_requests,
        changes,
        budgets,
        stats,
        rankings,
        metrics_route,
    ):
        app.include_router(module.router)
    if settings.enable_external_posts_route:
        app.include_router(external.router)
    return app


def app_of_environment() -> FastAPI:
    """`create_app` with settings from the environment, for worker processes and other ASGI servers."""
    # A worker process has nobody else who would set it; where it is set already, this changes nothing.
    log_to_stderr()
    app = create_app(load_settings())
    _return_what_is_freed()
    # What was made by now stays: to look through it again and again would hold up every request, 50 ms each time.
    gc.collect()
    gc.freeze()
    # Threads that check large bodies let the event loop have the interpreter so soon, each in its turn.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return app


def _return_what_is_freed() -> None:
    """Memory of large bodies goes back to the system. Else each thread keeps the most that it ever had: half as much again."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter, value in _MALLOC:
            libc.mallopt(parameter, value)

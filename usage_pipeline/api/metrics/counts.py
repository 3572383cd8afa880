"""What this service counts about itself (contracts §3, `/metrics`), in its own registry, and the middleware that counts.

Each label has few values: the template of a route, a method or status class from a fixed set, never text from a client.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from usage_recorder.failures import Reason

from usage_pipeline.events.ingest.batches import IngestReport
from usage_pipeline.settings import Settings

CacheName = Literal["token", "ranking", "external_post"]
CacheOutcome = Literal["hit", "miss"]
# The route label of every path that no route has: a scanner of paths must not make series.
UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The instruments. Each may be used from any thread.

    With several processes (`multiprocess_folder`: PROMETHEUS_MULTIPROC_DIR, which prometheus_client reads at its import) all of
    them write to files in that folder, and a scrape of any one process answers with the sum over all.
    """

    def __init__(self, multiprocess_folder: Path | None = None) -> None:
        # Each counter's time of creation would double the number of series, and several processes have none anyway.
        disable_created_metrics()
        self._folder = multiprocess_folder
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "usage_pipeline_http_requests",
            "Requests answered, by route template, method and status class (none: the client closed the connection)",
            ["route", "method", "status"],
            registry=registry,
        )
        self.durations = Histogram(
            "usage_pipeline_http_request_duration_seconds",
            "Time from the head of a request to the end of its answer",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "usage_pipeline_http_requests_in_progress",
            "Requests that are being answered now",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.cache_lookups = Counter(
            "usage_pipeline_cache_lookups",
            "Look-ups in caches: token (contracts §1.7), ranking (§1.8), external_post",
            ["cache", "outcome"],
            registry=registry,
        )
        self.recorder_failures = Counter(
            "usage_pipeline_recorder_failures",
            "Uses of tokens that were not recorded in Redis; reason bookkeeping: recorded, but only a full scan finds them",
            ["what", "reason"],
            registry=registry,
        )
        self.recorder_kept = Gauge(
            "usage_pipeline_recorder_kept",
            "Uses of tokens that wait until Redis takes them",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._kept: Callable[[], int] = int
        self.ingested_items = Counter(
            "usage_pipeline_http_ingested_items",
            "Items that came over HTTP, by outcome",
            ["kind", "outcome"],
            registry=registry,
        )
        self.external_posts = Counter(
            "usage_pipeline_external_posts",
            "Requests for external posts by outcome: fetched, fallback, or turned_away because too many are running",
            ["outcome"],
            registry=registry,
        )

    @classmethod
    def of(cls, settings: Settings) -> "Metrics":
        folder = settings.prometheus_multiproc_dir
        return cls(Path(folder) if folder else None)

    def cache_lookup(self, cache: CacheName, outcome: CacheOutcome) -> None:
        """Counts one look-up."""
        self.cache_lookups.labels(cache, outcome).inc()

    def watch_kept(self, kept: Callable[[], int]) -> None:
        """Asks at each scrape how many uses wait. (Of several processes, each as of the last scrape that it answered.)"""
        self._kept = kept

    def recorder_failed(self, what: str, reason: Reason) -> None:
        """Counts one record that was dropped; what a recorder takes as `on_failure`."""
        self.recorder_failures.labels(what, reason).inc()

    def ingested(self, kind: str, report: IngestReport) -> None:
        """Counts the items of one committed request."""
        outcomes = {
            "inserted": report.inserted,
            "duplicates": report.duplicates,
            "conflicts": report.conflicts,
            "rejected": len(report.rejected),
        }
        for outcome, items in outcomes.items():
            self.ingested_items.labels(kind, outcome).inc(items)

    def exposition(self, more: Iterable[Metric] = ()) -> bytes:
        """All instruments, then `more`, in the text format. With several processes it reads their files."""
        self.recorder_kept.set(self._kept())
        return generate_latest(_Together(self._own(), more))

    def _own(self) -> Iterable[Metric]:
        if self._folder is None:
            return self._registry.collect()
        for file in self._folder.glob("gauge_live*.db"):
            pid = file.stem.rpartition("_")[2]
            if pid.isdigit() and not _is_running(int(pid)):
                # A process that was killed would have its requests in hand for ever.
                mark_process_dead(int(pid), str(self._folder))
        collected: Iterable[Metric] = MultiProcessCollector(None, str(self._folder)).collect()
        return collected


class MetricsMiddleware:
    """Counts every request once, when its answer ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "none"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = f"{message['status'] // 100}xx"
            await send(message)

        metrics, began_at = self._metrics, time.perf_counter()
        metrics.in_progress.inc()
        try:
            await self._app(scope, receive, noting)
        except Exception:
            # Answered with 500 by what is around us.
            status = "5xx" if status == "none" else status
            raise
        finally:
            metrics.in_progress.dec()
            route = template_of(scope)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.requests.labels(route, method, status).inc()
            metrics.durations.labels(route).observe(time.perf_counter() - began_at)


def template_of(scope: Scope) -> str:
    """The template of the route that took the request, for example `/api/external/posts/{id}`."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else UNMATCHED


class _Together(Collector):
    def __init__(self, *parts: Iterable[Metric]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as somebody else
    return True

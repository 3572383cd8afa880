"""The text of `/metrics`, made once a second at most however many ask for it, and who may have it."""

import asyncio
import hmac
import time
from collections.abc import Callable

from fastapi import Request
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool

from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.metrics.pipeline import PipelineMetrics
from usage_pipeline.api.problems import Problem

TEXT_SECONDS = 1.0


class Exposition:
    """The last text, and the task that makes the next. For one event loop. `timer` gives seconds."""

    def __init__(
        self, metrics: Metrics, pipeline: PipelineMetrics, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._pipeline = pipeline
        self._timer = timer
        self._lock = asyncio.Lock()
        self._text = b""
        self._made_at = -float("inf")

    async def text(self) -> bytes:
        """What the service counts and the readings of the pipeline. Who comes while it is made waits for it."""
        async with self._lock:
            if self._timer() - self._made_at >= TEXT_SECONDS:
                families = await self._pipeline.families()
                # In a thread: with several processes it reads their files.
                self._text = await run_in_threadpool(self._metrics.exposition, families)
                self._made_at = self._timer()
            return self._text


def expect_metrics_token(request: Request, expected: SecretStr | None) -> None:
    """Raises Problem (401) unless the request has METRICS_TOKEN as its bearer token. Without that setting anybody may ask."""
    if expected is None:
        return
    scheme, _, came = request.headers.get("authorization", "").partition(" ")
    # Latin-1 gives back the bytes of the header, whatever they were.
    is_right = hmac.compare_digest(came.encode("latin-1"), expected.get_secret_value().encode())
    if scheme.lower() != "bearer" or not is_right:
        detail = "Authorization: expected Bearer and METRICS_TOKEN of this service, came none or another"
        raise Problem(401, "unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="usage_pipeline metrics"'})

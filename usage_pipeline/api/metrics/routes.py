"""`/metrics` for Prometheus: what the service counts, and readings of the pipeline."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from usage_pipeline.api import problems
from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.metrics.pipeline import PipelineMetrics

router = APIRouter(tags=["service"])


@router.get(
    "/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse, responses=problems.responses(500)
)
async def prometheus(request: Request) -> Response:
    """The text format of Prometheus. Readings of PostgreSQL and Redis are up to 5 s old. They are missing while it is down."""
    metrics: Metrics = request.app.state.metrics
    pipeline: PipelineMetrics = request.app.state.pipeline_metrics
    families = await pipeline.families()
    # In a thread: with several processes it reads their files.
    return Response(await run_in_threadpool(metrics.exposition, families), media_type=CONTENT_TYPE_PLAIN_0_0_4)

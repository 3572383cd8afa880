"""`/metrics` for Prometheus: what the service counts, and readings of the pipeline."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from usage_pipeline.api import problems
from usage_pipeline.api.metrics.exposition import Exposition, expect_metrics_token
from usage_pipeline.settings import Settings

router = APIRouter(tags=["service"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
    responses=problems.responses(401, 500),
)
async def prometheus(request: Request) -> Response:
    """The text format of Prometheus, up to a second old. Where `METRICS_TOKEN` is set, it is expected as the bearer token.

    Readings of PostgreSQL and Redis are up to 5 s old. They are missing while it is down.
    """
    settings: Settings = request.app.state.settings
    expect_metrics_token(request, settings.metrics_token)
    exposition: Exposition = request.app.state.exposition
    return Response(await exposition.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

"""Bulk ingest of usage events and message archives (contracts §3)."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.ingest import bodies, openapi
from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.storing import Storing
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, Kind, ingest
from usage_pipeline.events.ingest.documents import TooManyItems, UnreadableDocument, items_of
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed

_STATUSES = problems.responses(400, 401, 403, 408, 413, 415, 422, 500, 503)
router = APIRouter(prefix="/api/v1/ingest", tags=["ingest"])
Caller = Annotated[AccessToken, Depends(requires("ingest"))]


class RejectedItem(BaseModel):
    """An item that was not stored."""

    index: int = Field(description="Its position in the request, from 0", examples=[3])
    reason: str = Field(
        description="What was expected and what came", examples=["team: expected 1 to 200 characters, came 0"]
    )


class BulkReport(BaseModel):
    """The outcome of a request, which is committed: received = inserted + duplicates + conflicts + rejected."""

    received: int = Field(description="Items in the request", examples=[4])
    inserted: int = Field(description="Items that this request stored", examples=[2])
    duplicates: int = Field(description="Items that were stored before; at most their time differs", examples=[1])
    conflicts: int = Field(
        description="Items whose id is stored with other content; they are kept apart and reported", examples=[0]
    )
    rejected: list[RejectedItem] = Field(description="Items that break a rule; the other items are stored all the same")


@router.post(
    "/requests:bulk",
    summary="Store usage events",
    response_model=BulkReport,
    responses=_STATUSES,
    openapi_extra=openapi.request_body(EVENTS),
)
async def ingest_requests(request: Request, caller: Caller) -> Response:
    """Stores each event once by its `event_id`, also if it is sent again. Valid items are stored even if others are rejected.

    A 200 means that the transaction is committed. After a 503 or a lost connection, send the same request again.
    """
    return await _bulk(request, EVENTS, caller)


@router.post(
    "/archives:bulk",
    summary="Store message archives",
    response_model=BulkReport,
    responses=_STATUSES,
    openapi_extra=openapi.request_body(ARCHIVES),
)
async def ingest_archives(request: Request, caller: Caller) -> Response:
    """Stores whole prompts and responses, one archive per event. An archive is rejected if its event is not stored."""
    return await _bulk(request, ARCHIVES, caller)


async def _bulk(request: Request, kind: Kind, caller: AccessToken) -> Response:
    settings: Settings = request.app.state.settings
    storing: Storing = request.app.state.storing
    is_compressed = bodies.is_compressed(request)
    with storing.places.one(caller.token_id):
        try:
            body = await bodies.received(request, most=settings.max_gzip_size, seconds=settings.body_timeout_seconds)
        except ClientDisconnect:
            # Nobody is there to be answered, and nothing is stored.
            return Response(status_code=400)
        store = partial(
            _stored, body, kind, settings, storing, is_compressed=is_compressed, source=f"http:{caller.token_id}"
        )
        report = await storing.in_thread(store)
    metrics: Metrics = request.app.state.metrics
    metrics.ingested(kind.name, report)
    return JSONResponse(_answer(report))


def _stored(
    body: bytearray, kind: Kind, settings: Settings, storing: Storing, *, is_compressed: bool, source: str
) -> IngestReport:
    if is_compressed:
        body = bodies.decompressed(body, most=settings.max_decompressed_bytes)
    try:
        items = items_of(body, kind.name, most=settings.max_bulk_size)
    except TooManyItems as error:
        raise Problem(413, "too-many-items", f"{error} (MAX_BULK_SIZE)") from None
    except UnreadableDocument as error:
        raise Problem(400, "invalid-json", str(error)) from None
    except Malformed as error:
        raise Problem(422, "invalid-document", str(error)) from None
    with storing.pool.connection() as connection:
        return ingest(connection, kind, items, source=source, settings=settings)


def _answer(report: IngestReport) -> dict[str, Any]:
    return {
        "received": report.received,
        "inserted": report.inserted,
        "duplicates": report.duplicates,
        "conflicts": report.conflicts,
        "rejected": [{"index": rejection.index, "reason": rejection.reason} for rejection in report.rejected],
    }

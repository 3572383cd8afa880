"""Bulk ingest of usage events and message archives (contracts §3)."""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.ingest import bodies, openapi
from usage_pipeline.api.ingest.budget import Room
from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.storing import STORE_SECONDS, Storing
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, Kind, ingest
from usage_pipeline.events.ingest.documents import (
    Items,
    Timely,
    TooLargeItem,
    TooManyItems,
    items_of,
    lines_of,
)
from usage_pipeline.events.ingest.json_scan import UnreadableDocument
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed

Done = TypeVar("Done")
# How a document becomes items, within `most` of them and `most_bytes` of each.
Split = Callable[..., Items]
_MEDIA_TYPES = (*bodies.JSON, *bodies.JSON_LINES)
STATUSES = problems.responses(400, 401, 403, 408, 413, 415, 422, 500, 503)
router = APIRouter(prefix="/api/v1/ingest", tags=["ingest"])
Caller = Annotated[AccessToken, Depends(requires("ingest", takes_bound=True))]


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
    responses=STATUSES,
    openapi_extra=openapi.request_body(EVENTS),
)
async def ingest_requests(request: Request, caller: Caller) -> Response:
    """Stores each event once by its `event_id`, also if it is sent again. Valid items are stored even if others are rejected.

    An id that is no UUID is unique for its `source`; without one, for the name of the token.

    A 200 means that the transaction is committed. After a 503 or a lost connection, send the same request again.
    """
    return await _bulk(request, EVENTS, caller)


@router.post(
    "/archives:bulk",
    summary="Store message archives",
    response_model=BulkReport,
    responses=STATUSES,
    openapi_extra=openapi.request_body(ARCHIVES),
)
async def ingest_archives(request: Request, caller: Caller) -> Response:
    """Stores whole prompts and responses, one archive per event. An archive is rejected if its event is not stored."""
    return await _bulk(request, ARCHIVES, caller)


async def _bulk(request: Request, kind: Kind, caller: AccessToken) -> Response:
    settings: Settings = request.app.state.settings
    storing: Storing = request.app.state.storing
    store = partial(_stored, kind=kind, settings=settings, storing=storing, caller=caller)
    return answer(request, kind, await done_with_body(request, caller, store))


def answer(request: Request, kind: Kind, report: IngestReport | None) -> Response:
    """Counts what a request stored, and says it. Nobody is there to hear it where there is no report."""
    if report is None:
        return Response(status_code=400)
    metrics: Metrics = request.app.state.metrics
    metrics.ingested(kind.name, report)
    return JSONResponse(_members(report))


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body as it was sent, and what it holds, or how many bytes that is; its media type.

    `deadline` is a time of `time.monotonic`.
    """

    sent: bytearray
    document: bytearray | int
    media_type: str
    deadline: float

    def whole(self) -> bytearray:
        """What it holds. A large one is decompressed only now that there is room for it. Raises Problem."""
        if isinstance(self.document, int):
            return bodies.decompressed(self.sent, most=self.document)
        return self.document


async def done_with_body(
    request: Request,
    caller: AccessToken,
    work: Callable[[Body], Done],
    known: Sequence[str] = _MEDIA_TYPES,
    expected_types: str = "",
) -> Done | None:
    """Reads the body within its limits, and does `work` with it in a thread. None when the sender went away.

    `known`: the media types that it may have; `expected_types` says them in words.
    """
    settings: Settings = request.app.state.settings
    storing: Storing = request.app.state.storing
    media_type = bodies.media_type(request, known, expected_types)
    is_compressed = bodies.is_compressed(request)
    room: Room = request.app.state.room
    seconds = settings.body_timeout_seconds
    size = bodies.announced(request, most=settings.max_gzip_size)
    async with AsyncExitStack() as held:
        held.enter_context(storing.places.one(caller.token_id))
        shrink = await held.enter_async_context(room.for_body(size, caller.token_id, seconds=seconds))
        try:
            body = await bodies.received(request, most=settings.max_gzip_size, seconds=seconds)
        except ClientDisconnect:
            # Nobody is there to be answered, and nothing is stored.
            return None
        # A sender of chunks does not say how many bytes they will be.
        shrink(len(body))
        document: bytearray | int = body
        if is_compressed:
            open_ = partial(bodies.opened, body, most=settings.max_decompressed_bytes)
            document = await storing.in_thread(open_, held)
        size = document if isinstance(document, int) else len(document)
        await held.enter_async_context(room.for_document(size, caller.token_id, seconds=STORE_SECONDS))
        received = Body(body, document, media_type, time.monotonic() + STORE_SECONDS)
        return await storing.in_thread(partial(work, received), held)


def _stored(body: Body, *, kind: Kind, settings: Settings, storing: Storing, caller: AccessToken) -> IngestReport:
    """Raises TimeoutError after the deadline of the body; then nothing is stored."""
    items = document_items(body, kind.name, settings, most_bytes=kind.most_item_bytes)
    return stored_items(items, kind, settings=settings, storing=storing, caller=caller)


def stored_items(
    items: Items, kind: Kind, *, settings: Settings, storing: Storing, caller: AccessToken
) -> IngestReport:
    """Stores what a token sent, in one transaction."""
    with storing.pool.connection() as connection:
        source = f"http:{caller.token_id}"
        return ingest(
            connection, kind, items, source=source, sender=caller.name, settings=settings, binding=caller.binding
        )


def document_items(body: Body, member: str, settings: Settings, *, most_bytes: int) -> Items:
    """The items of a request's document; to take one after the deadline raises TimeoutError. Raises Problem."""
    has_lines = body.media_type in bodies.JSON_LINES
    split: Split = lines_of if has_lines else partial(items_of, member=member)
    return split_items(body, body.whole(), split, settings, most_bytes=most_bytes)


def split_items(
    body: Body, document: bytearray, split: Split, settings: Settings, *, most_bytes: int, most: int | None = None
) -> Items:
    """The same, by another way to split the document of that body; `most` items in place of MAX_BULK_SIZE."""
    try:
        return Timely(split(document, most=most or settings.max_bulk_size, most_bytes=most_bytes), body.deadline)
    except TooLargeItem as error:
        raise Problem(413, "too-large-item", str(error)) from None
    except TooManyItems as error:
        raise Problem(413, "too-many-items", str(error) if most else f"{error} (MAX_BULK_SIZE)") from None
    except UnreadableDocument as error:
        raise Problem(400, "invalid-json", str(error)) from None
    except Malformed as error:
        raise Problem(422, "invalid-document", str(error)) from None


def _members(report: IngestReport) -> dict[str, Any]:
    return {
        "received": report.received,
        "inserted": report.inserted,
        "duplicates": report.duplicates,
        "conflicts": report.conflicts,
        "rejected": [{"index": rejection.index, "reason": rejection.reason} for rejection in report.rejected],
    }

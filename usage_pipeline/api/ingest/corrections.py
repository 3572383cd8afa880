"""Bulk corrections of usage events over HTTP (contracts §8.3): what the commands `events void` and `events replace` do."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from usage_pipeline import values
from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api.auth import requires
from usage_pipeline.api.ingest import openapi
from usage_pipeline.api.ingest.routes import STATUSES, Body, RejectedItem, document_items, done_with_body
from usage_pipeline.api.storing import Storing
from usage_pipeline.events.corrections.events import MAX_REASON_CHARACTERS, Corrected, Wanted, correct, event_id_of
from usage_pipeline.events.ingest.batches import EVENTS
from usage_pipeline.settings import Settings
from usage_pipeline.values import UNREADABLE_JSON, Malformed

router = APIRouter(prefix="/api/v1/ingest", tags=["ingest"])
Caller = Annotated[AccessToken, Depends(requires("correct", takes_bound=True))]
# An id, a source and a reason beside the event, all of which are escapes.
_MORE_BYTES = 32 * 1024
_NULL = msgspec.Raw(b"null")


class AskedCorrection(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A correction of one event: void takes it out, replace puts another one in its place."""

    action: Literal["void", "replace"]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REASON_CHARACTERS)]
    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=values.MAX_ID_CHARACTERS)] | None = None
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=values.MAX_ID_CHARACTERS)] | None = None
    event: msgspec.Raw = _NULL


_decode = msgspec.json.Decoder(AskedCorrection).decode


class CorrectionReport(BaseModel):
    """The outcome of a request, which is committed: received = corrected + already + rejected."""

    received: int = Field(description="Corrections in the request", examples=[3])
    corrected: int = Field(description="Corrections that this request made, each with a note", examples=[1])
    already: int = Field(description="Corrections that were made before; nothing changed", examples=[1])
    rejected: list[RejectedItem] = Field(
        description="Corrections that cannot be made; the others are made all the same"
    )


@router.post(
    "/corrections:bulk",
    summary="Correct usage events",
    response_model=CorrectionReport,
    responses=STATUSES,
    openapi_extra=openapi.corrections_body(MAX_REASON_CHARACTERS),
)
async def correct_events(request: Request, caller: Caller) -> Response:
    """Takes events out, or replaces them, each with a reason. Who, when, why, before and after are kept.

    A 200 means that all of it is committed. After a 503 or a lost connection, send the same request again: what is done already
    is not done twice. Hours and days that changed are made again within minutes.
    """
    settings: Settings = request.app.state.settings
    storing: Storing = request.app.state.storing
    work = partial(_corrected, settings=settings, storing=storing, caller=caller)
    answer = await done_with_body(request, caller, work)
    return Response(status_code=400) if answer is None else JSONResponse(answer)


def _corrected(body: Body, *, settings: Settings, storing: Storing, caller: AccessToken) -> dict[str, Any]:
    items = document_items(body, "corrections", settings, most_bytes=EVENTS.most_item_bytes + _MORE_BYTES)
    rejected: dict[int, str] = {}
    wanted: dict[int, Wanted] = {}
    for index, item in enumerate(items):
        try:
            wanted[index] = _wanted(item, caller.name)
        except Malformed as malformed:
            rejected[index] = str(malformed)
    outcomes: Sequence[Corrected] = []
    if wanted:
        with storing.pool.connection() as connection:
            outcomes = correct(
                connection,
                list(wanted.values()),
                corrected_by=f"token {caller.name} ({caller.token_id})",
                settings=settings,
                sender=caller.name,
                deadline=body.deadline,
                binding=caller.binding,
            )
    for index, outcome in zip(wanted, outcomes, strict=True):
        if outcome.outcome == "refused":
            rejected[index] = outcome.refusal
    return {
        "received": len(items),
        "corrected": sum(one.outcome == "corrected" for one in outcomes),
        "already": sum(one.outcome == "already" for one in outcomes),
        "rejected": [{"index": index, "reason": rejected[index]} for index in sorted(rejected)],
    }


def _wanted(item: bytes | memoryview | msgspec.Raw, sender: str) -> Wanted:
    try:
        asked = _decode(item)
    except UNREADABLE_JSON as error:
        raise Malformed(
            f"expected a correction as a JSON object, came one with a fault: {values.described(error)}"
        ) from None
    has_event = bytes(memoryview(asked.event)[:5]) != b"null"
    if has_event == (asked.action == "void"):
        raise Malformed("event: expected one with the action replace, and none with void, came the contrary")
    event_id = None if asked.event_id is None else event_id_of(asked.event_id, asked.source or sender)
    return Wanted(asked.reason, event_id, asked.event if has_event else None)

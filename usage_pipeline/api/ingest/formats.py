"""Ingest of what other programs send as it is (contracts §9): LiteLLM's callback, and CloudEvents."""

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import unquote

from fastapi import APIRouter, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api.ingest import bodies, openapi_formats
from usage_pipeline.api.ingest.portions import Portions
from usage_pipeline.api.ingest.routes import (
    STATUSES,
    Body,
    BulkReport,
    Caller,
    answer,
    done_with_body,
    split_items,
)
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.storing import Storing
from usage_pipeline.events.formats import cloudevents, litellm
from usage_pipeline.events.formats.mapped import Mapped
from usage_pipeline.events.ingest.batches import EVENTS, IngestReport, joined
from usage_pipeline.events.ingest.documents import Json, begins_object, lines_of, objects_of, seems_lines
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted, visible

# The items of a body, as usage events.
Read = Callable[[Body, Settings], Mapped[Json]]
# What LiteLLM keeps while it cannot send, and then sends at once (`max_queue_size`).
LITELLM_MOST_ITEMS = 50_000
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
_LITELLM_TYPES = (*bodies.JSON, *bodies.JSON_LINES)
_CLOUDEVENTS_TYPES = (STRUCTURED, BATCHED)
# Data of a binary event without a type are JSON: the SDK for Python sends none.
_DATA_TYPES = (*bodies.JSON, "")
_HEADER = re.compile(r"ce-([a-z0-9]+)")
_VERSION_HEADER = "ce-specversion"
_MODES = f"{STRUCTURED}, {BATCHED}, or {bodies.JSON[0]} with the headers ce-specversion, ce-id, ce-source and ce-type"
# Each has at most 500 characters.
_LOGGED_REASONS = 3
_log = logging.getLogger(__name__)
router = APIRouter(prefix="/api/v1/ingest", tags=["ingest"])


@router.post(
    "/litellm",
    summary="Store what LiteLLM logs",
    response_model=BulkReport,
    responses=STATUSES,
    openapi_extra=openapi_formats.litellm_body(),
)
async def ingest_litellm(request: Request, caller: Caller) -> Response:
    """Takes what LiteLLM's generic API callback sends, each request to a model once, also if it is sent again.

    Failures count as errors, and a hit in LiteLLM's own cache costs nothing. What LiteLLM does not know is `unknown`. Prompts
    and answers are not stored.
    """
    return await _stored(request, caller, _litellm_events, _LITELLM_TYPES)


@router.post(
    "/cloudevents",
    summary="Store CloudEvents",
    response_model=BulkReport,
    responses=STATUSES,
    openapi_extra=openapi_formats.cloudevents_body(),
)
async def ingest_cloudevents(request: Request, caller: Caller) -> Response:
    """Takes CloudEvents 1.0 whose data are members of a usage event: a structured one, a batch, or a binary one.

    An event is unique by its `source` and `id`. Without `event_time` in its data, its `time` is taken.
    """
    attributes = _attributes(request)
    if attributes is None:
        return await _stored(request, caller, _cloudevents, _CLOUDEVENTS_TYPES, expected=_MODES)
    return await _stored(
        request, caller, partial(_binary_event, attributes=attributes), _DATA_TYPES, expected=bodies.JSON[0]
    )


async def _stored(
    request: Request, caller: AccessToken, read: Read, media_types: tuple[str, ...], *, expected: str = ""
) -> Response:
    settings: Settings = request.app.state.settings
    storing: Storing = request.app.state.storing

    def store(body: Body) -> IngestReport:
        items = read(body, settings)
        are_several = len(items) > settings.max_bulk_size
        portions = Portions(storing, settings, caller, caller.name, are_several)
        reports = [portions.store(EVENTS, some) for some in items.portions(settings.max_bulk_size)]
        portions.finish()
        return joined([report for report in reports if report is not None])

    report = await done_with_body(request, caller, store, media_types, expected)
    if report is not None and report.rejected:
        # LiteLLM and most brokers of events do not read the answer.
        _log.warning("%s, token %s: %s", request.url.path, visible(caller.name), _said(report))
    return answer(request, EVENTS, report)


def _said(report: IngestReport) -> str:
    """How many items were rejected, and the first of each reason."""
    first: dict[str, int] = {}
    for rejection in report.rejected:
        first.setdefault(rejection.reason, rejection.index)
    shown = "; ".join(f"item {index}: {reason}" for reason, index in list(first.items())[:_LOGGED_REASONS])
    return f"{len(report.rejected)} of {counted(report.received, 'item')} rejected. {shown}"


def _litellm_events(body: Body, settings: Settings) -> Mapped[Json]:
    """However many LiteLLM sends: it throws away what is refused, and does not heed limits."""
    document = body.whole()
    # LiteLLM says that lines are JSON, too.
    has_lines = body.media_type in bodies.JSON_LINES or seems_lines(document)
    items = split_items(
        body,
        document,
        lines_of if has_lines else objects_of,
        settings,
        most=max(LITELLM_MOST_ITEMS, settings.max_bulk_size),
        most_bytes=EVENTS.most_item_bytes,
    )
    return Mapped(items, litellm.event_of)


def _cloudevents(body: Body, settings: Settings) -> Mapped[Json]:
    document = body.whole()
    is_object = begins_object(document)
    if document and is_object != (body.media_type == STRUCTURED):
        shape = "one CloudEvent as a JSON object" if body.media_type == STRUCTURED else "a JSON array of CloudEvents"
        raise Problem(422, "invalid-document", f"body: expected {shape}, as its Content-Type says, came another")
    items = split_items(body, document, objects_of, settings, most_bytes=EVENTS.most_item_bytes)
    return Mapped(items, cloudevents.event_of)


def _binary_event(body: Body, settings: Settings, *, attributes: Mapping[str, str]) -> Mapped[Json]:
    document = body.whole()
    if document and not begins_object(document):
        raise Problem(422, "invalid-document", "body: expected the members of one event as a JSON object, came another")
    items = split_items(body, document, objects_of, settings, most_bytes=EVENTS.most_item_bytes)
    return Mapped(items, partial(cloudevents.event_of_data, attributes=attributes))


def _attributes(request: Request) -> dict[str, str] | None:
    """The attributes of a binary CloudEvent, from its headers; None where there are none.

    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md#313-metadata-headers
    """
    if _VERSION_HEADER not in request.headers:
        return None
    found = {name: match[1] for name in request.headers if (match := _HEADER.fullmatch(name))}
    return {attribute: _header_text(request.headers[name]) for name, attribute in found.items()}


def _header_text(value: str) -> str:
    """Percent-encoded UTF-8, in quotes perhaps."""
    text = value.encode("latin-1").decode(errors="replace").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    return unquote(text, errors="replace")

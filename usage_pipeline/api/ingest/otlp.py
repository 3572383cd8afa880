"""`POST /v1/traces`: spans of OpenTelemetry, OTLP over HTTP (contracts §9). What a span means is in `events/otlp/`."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api.auth import requires
from usage_pipeline.api.ingest import openapi
from usage_pipeline.api.ingest.bodies import JSON
from usage_pipeline.api.ingest.otlp_answers import MEDIA_TYPES, OtlpRoute, success
from usage_pipeline.api.ingest.portions import Portions
from usage_pipeline.api.ingest.routes import Body, done_with_body
from usage_pipeline.api.metrics.counts import Metrics
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.storing import Storing
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport
from usage_pipeline.events.ingest.documents import Timely
from usage_pipeline.events.ingest.json_scan import UnreadableDocument
from usage_pipeline.events.ingest.members import without_remedy
from usage_pipeline.events.otlp.document import Batch, Refusals, TraceRequest
from usage_pipeline.events.otlp.mapping import SOURCE, Rules
from usage_pipeline.events.otlp.parts import TooManyParts
from usage_pipeline.settings import Settings
from usage_pipeline.texts import shortened

router = APIRouter(tags=["ingest"], route_class=OtlpRoute)
Caller = Annotated[AccessToken, Depends(requires("ingest", takes_bound=True))]
_ARCHIVE_BYTES = 4 * 2**20
_MESSAGE_CHARACTERS = 2_000
_LOGGED_CHARACTERS = 1_000
_log = logging.getLogger(__name__)


@router.post(
    "/v1/traces",
    summary="Store the model calls of OpenTelemetry spans",
    response_model=None,
    responses=openapi.otlp_responses(),
    openapi_extra=openapi.otlp_body(),
)
async def export_traces(request: Request, caller: Caller) -> Response:
    """OTLP over HTTP, for the exporters of OpenTelemetry. A span that is one call of a model becomes a usage event.

    Other spans are accepted and ignored: agents, workflows and tools repeat the tokens of their children. A span counts once,
    however often it is sent. A 200 means that the transactions are committed.
    """
    settings: Settings = request.app.state.settings
    storing: Storing = request.app.state.storing
    store = partial(_stored, settings=settings, storing=storing, caller=caller)
    outcome = await done_with_body(request, caller, store, MEDIA_TYPES)
    if outcome is None:
        return Response(status_code=400)
    metrics: Metrics = request.app.state.metrics
    for kind, report in outcome.reports:
        metrics.ingested(kind, report)
    metrics.ingested_items.labels(EVENTS.name, "rejected").inc(outcome.unreadable)
    return outcome.answer()


@dataclass(slots=True)
class _Outcome:
    """What became of a request, all of it committed. `unreadable`: spans that could not even be items of a batch."""

    is_json: bool
    unreadable: int
    refusals: Refusals
    unknown: int
    reports: list[tuple[str, IngestReport]]
    unkept: Refusals

    def answer(self) -> Response:
        hints = []
        if self.refusals.number:
            hints.append("; ".join(self.refusals.reasons))
        if conflicts := sum(report.conflicts for kind, report in self.reports if kind == EVENTS.name):
            hints.append(f"{conflicts} spans came before with other content; these are kept apart and do not count")
        if self.unknown:
            hints.append(
                f"{self.unknown} spans have tokens and do not count, since nothing says that they are one call of a model, "
                "such as gen_ai.operation.name=chat"
            )
        if self.unkept.number:
            hints.append(f"{self.unkept.number} prompts or answers are not kept: {'; '.join(self.unkept.reasons)}")
        message = shortened(". ".join(hints), _MESSAGE_CHARACTERS)
        if message:
            # Most exporters do not look at it.
            _log.warning("OTLP: %d spans rejected. %s", self.refusals.number, shortened(message, _LOGGED_CHARACTERS))
        return success(self.is_json, self.refusals.number, message)


def _stored(body: Body, *, settings: Settings, storing: Storing, caller: AccessToken) -> _Outcome:
    """Raises Problem, and TimeoutError after the deadline of the body; batches that are stored by then stay."""
    is_json = body.media_type in JSON
    rules = Rules.of(settings)
    try:
        traces = TraceRequest(body.whole(), is_json=is_json, rules=rules, deadline=body.deadline)
        outcome = _Outcome(is_json, traces.refusals.number, traces.refusals, traces.unknown, [], traces.unkept)
        # The archives of a batch are portions of their own.
        are_several = traces.calls > settings.max_bulk_size or settings.otlp_keep_content
        portions = Portions(storing, settings, caller, SOURCE, are_several)
        for batch in traces.batches(settings.max_bulk_size):
            _store(batch, outcome, portions, body=body)
        portions.finish()
    except UnreadableDocument as error:
        raise Problem(400, "invalid-document", str(error)) from None
    except TooManyParts as error:
        raise Problem(413, "too-many-items", str(error)) from None
    return outcome


def _store(batch: Batch, outcome: _Outcome, portions: Portions, *, body: Body) -> None:
    report = portions.store(EVENTS, Timely(batch, body.deadline))
    if report is None:
        return
    outcome.reports.append((EVENTS.name, report))
    for rejection in report.rejected:
        reason = without_remedy(rejection.reason)
        name = batch.name(rejection.index) if outcome.refusals.is_new(reason) else ""
        outcome.refusals.add(reason, name)
    if not portions.settings.otlp_keep_content:
        return
    rejected = {rejection.index for rejection in report.rejected}
    for archives in batch.archives(_ARCHIVE_BYTES, without=rejected):
        if (report := portions.store(ARCHIVES, Timely(archives, body.deadline))) is None:
            continue
        outcome.reports.append((ARCHIVES.name, report))
        for rejection in report.rejected:
            outcome.unkept.add(rejection.reason)

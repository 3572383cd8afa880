"""Issue statistics per day (contracts §3). Existing clients read these names."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.storing import Storing
from usage_pipeline.api.usage import openapi as read_openapi
from usage_pipeline.api.usage import queries
from usage_pipeline.api.usage.routes import json_response
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

_STATUSES = problems.responses(401, 403, 422, 429, 500, 503)
_NAMES = ("id", "date", "createdCount", "resolvedCount", "commentCount", "createdAt")
_EXAMPLE = {
    "id": 323,
    "date": "2026-11-19",
    "createdCount": 4,
    "resolvedCount": 3,
    "commentCount": 27,
    "createdAt": "2026-11-20T03:00:04.120000Z",
}
_COUNT = {"type": "integer", "format": "int64", "minimum": 0}
_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "format": "int64", "description": "Number of the row. It never changes"},
        "date": {"type": "string", "format": "date", "description": "Day in USAGE_TIMEZONE"},
        "createdCount": {**_COUNT, "description": "Issues created on that day"},
        "resolvedCount": {**_COUNT, "description": "Issues resolved or closed on that day, and so at its end"},
        "commentCount": {**_COUNT, "description": "Comments written on that day"},
        "createdAt": {"type": "string", "format": "date-time", "description": "When the day was first counted"},
    },
    "required": list(_NAMES),
    "additionalProperties": False,
}
router = APIRouter(prefix="/api/stats", tags=["issues"])
Caller = Annotated[AccessToken, Depends(requires("read"))]


@router.get(
    "/daily",
    summary="Issues created and resolved, and comments, per day",
    responses={**_STATUSES, **read_openapi.array_answer(_SCHEMA, [_EXAMPLE])},
    openapi_extra={"parameters": read_openapi.day_parameters()},
)
async def daily(request: Request, caller: Caller) -> Response:
    """Sorted by date, first and last day included. Days that are not counted yet are left out."""
    settings: Settings = request.app.state.settings
    storing: Storing = request.app.state.storing
    days = queries.days_of(queries.parameters_of(request, ("from", "to")), current_day(settings.timezone))
    rows = await storing.in_thread(partial(_days, storing, {"first": days.first, "until": days.until}))
    return json_response([dict(zip(_NAMES, row, strict=True)) for row in rows])


def _days(storing: Storing, arguments: dict[str, Any]) -> list[tuple[Any, ...]]:
    with storing.pool.connection() as connection:
        return connection.execute(load("api/stats/select_daily_issue_stats"), arguments).fetchall()

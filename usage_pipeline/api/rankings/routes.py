"""The ten most popular issues, models, services and API keys (contracts §1.8, §3), from the cache if it has them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api import problems
from usage_pipeline.api.auth import requires
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.rankings.reads import RankingReads
from usage_pipeline.api.usage import openapi as read_openapi
from usage_pipeline.api.usage import queries
from usage_pipeline.rollups.rankings import RANKINGS, Ranking

_BY_NAME = {ranking.name: ranking for ranking in RANKINGS}
_STATUSES = problems.responses(401, 403, 422, 429, 500, 503)
_CACHE = "hit: the answer comes from the cache. miss: it comes from the database, and is cached for five minutes"
_ENTRY = {
    "rankingDate": "2026-11-20",
    "rank": 1,
    "id": "15032",
    "title": "expect.closeTo fails inside toEqual",
    "score": 41,
}
_ISSUE = {**_ENTRY, "viewCount": 29, "commentCount": 12, "createdAt": "2026-11-16T09:12:44Z"}
_MODEL = {**_ENTRY, "id": "openai/gpt-4o", "title": "gpt-4o", "score": 1200, "requests": 1200, "totalTokens": 1_224_000}
_TYPES: dict[type, dict[str, Any]] = {int: {"type": "integer", "format": "int64"}, str: {"type": "string"}}
router = APIRouter(prefix="/api", tags=["rankings"])
Caller = Annotated[AccessToken, Depends(requires("read"))]


def _schema(example: dict[str, Any], required: dict[str, Any]) -> dict[str, Any]:
    properties = {name: _TYPES[type(value)] for name, value in example.items()}
    return {"type": "object", "properties": properties, "required": list(required)}


@router.get(
    "/issues/popular",
    summary="The most popular issues",
    responses={**_STATUSES, **read_openapi.array_answer(_schema(_ISSUE, _ISSUE), [_ISSUE], X_Cache=_CACHE)},
)
async def popular_issues(request: Request, caller: Caller) -> Response:
    """At most ten issues that were created in the seven days up to the ranking date. The most views and comments come first."""
    return await _answer(request, _BY_NAME["issues"])


@router.get(
    "/rankings/{name}",
    summary="A ranking",
    responses={
        **_STATUSES,
        **problems.responses(404),
        **read_openapi.array_answer(_schema(_MODEL, _ENTRY), [_MODEL], X_Cache=_CACHE),
    },
)
async def ranking(
    request: Request,
    name: Annotated[
        str,
        Path(
            description=f"One of {', '.join(_BY_NAME)}",
            examples=["models"],
            openapi_examples={"models": {"value": "models"}},
        ),
    ],
    caller: Caller,
) -> Response:
    """At most ten entries of the newest ranking date, best first. Each entry also has the parts of its score."""
    if name not in _BY_NAME:
        expected = ", ".join(_BY_NAME)
        raise Problem(404, "not-found", f"name: expected one of {expected}, came {name[:60]!r}")
    return await _answer(request, _BY_NAME[name])


async def _answer(request: Request, ranking: Ranking) -> Response:
    queries.parameters_of(request, ())
    reads: RankingReads = request.app.state.rankings
    answer = await reads.get(ranking)
    headers = {"X-Cache": "hit" if answer.is_hit else "miss"}
    return Response(answer.text, media_type="application/json", headers=headers)

"""Posts of the external API (contracts §4), for callers without a token."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from usage_pipeline.api import problems
from usage_pipeline.api.external.posts import PostDesk
from usage_pipeline.enrichment.posts import FALLBACK_BODY, FALLBACK_TITLE
from usage_pipeline.setting_types import MAX_POST_ID

router = APIRouter(prefix="/api/external", tags=["external"])


class ExternalPost(BaseModel):
    """A post as the external API gave it."""

    model_config = ConfigDict(alias_generator=to_camel)

    id: int = Field(examples=[1])
    user_id: int | str = Field(description="The author of the post in the external API", examples=[1])
    title: str = Field(examples=["A title"])
    body: str = Field(examples=["A text"])


class UnavailablePost(BaseModel):
    """The answer in place of a post that the external API did not give."""

    id: int = Field(examples=[1])
    title: str = Field(examples=[FALLBACK_TITLE])
    body: str = Field(examples=[FALLBACK_BODY])
    error: bool = Field(description="Always true", examples=[True])


def _digits(came: object) -> object:
    """Refuses `1.0` and `+1`, which Pydantic takes as numbers."""
    if isinstance(came, str) and not (came.isascii() and came.isdigit()):
        raise ValueError("expected decimal digits")
    return came


PostId = Annotated[
    int,
    Field(ge=1, le=MAX_POST_ID),
    BeforeValidator(_digits),
    Path(description="Number of the post", examples=[1]),
]


@router.get(
    "/posts/{id}",
    summary="A post of the external API",
    response_model=ExternalPost | UnavailablePost,
    responses=problems.responses(422, 500),
)
async def external_post(request: Request, id: PostId) -> Response:  # the contract's name
    """The post; or a substitute with `"error": true` if the API does not give it or does not have it. Both are a 200.

    A post is kept in memory for a minute, a substitute for eight seconds. While too many posts are being fetched, it is a
    substitute at once.
    """
    desk: PostDesk = request.app.state.posts
    return Response(await desk.answer(id), media_type="application/json")

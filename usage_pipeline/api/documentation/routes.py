"""The OpenAPI document and its page. Addresses in the page are relative: no proxy, prefix or Host changes them."""

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from usage_pipeline.api.answers.files import File, FileSet
from usage_pipeline.api.answers.headers import page_headers

_FOLDER = Path(__file__).resolve().parent
_SWAGGER_UI = "fastapi_swagger.resources"
_FROM_SWAGGER_UI = ("favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui.css")
router = APIRouter()


def _read() -> Mapping[str, bytes]:
    theirs = {name: resources.files(_SWAGGER_UI).joinpath(name).read_bytes() for name in _FROM_SWAGGER_UI}
    return {**theirs, "documentation.js": (_FOLDER / "documentation.js").read_bytes()}


FILES = FileSet(_read)


class OpenapiDocument:
    """The OpenAPI document of an app, made at the first request for it. For one event loop."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._lock = asyncio.Lock()
        self._file: File | None = None

    async def file(self) -> File:
        async with self._lock:
            if self._file is None:
                # In a thread: it takes half a second, in which others are served.
                self._file = await asyncio.to_thread(self._made)
            return self._file

    def _made(self) -> File:
        text = json.dumps(self._app.openapi(), ensure_ascii=False, separators=(",", ":"))
        return File.of(text.encode(), "application/json")


@router.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    document: OpenapiDocument = request.app.state.openapi_document
    return (await document.file()).answer(request)


@router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def documentation(request: Request) -> Response:
    """The page that shows the document."""
    # The images are in the style sheet of Swagger UI.
    return _page().answer(request, page_headers(images="'self' data:"))


@router.api_route("/docs/{version}/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def file(request: Request, version: str, name: str) -> Response:
    """A file of the page."""
    return FILES.answer(request, version, name)


@cache
def _page() -> File:
    return FILES.page((_FOLDER / "documentation.html").read_text(encoding="utf-8"))

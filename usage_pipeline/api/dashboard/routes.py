"""The dashboard: a page and its files. They have no secrets, and their policy lets them load and call only this service."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from usage_pipeline.api.answers.files import File, FileSet
from usage_pipeline.api.answers.headers import page_headers

_FOLDER = Path(__file__).resolve().parent
_NAMES = ("charts.js", "dashboard.css", "dashboard.js", "icon.svg")
router = APIRouter()


def _read() -> Mapping[str, bytes]:
    return {name: (_FOLDER / name).read_bytes() for name in _NAMES}


FILES = FileSet(_read)


@router.api_route("/dashboard/{version}/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def file(request: Request, version: str, name: str) -> Response:
    """A file of the dashboard."""
    return FILES.answer(request, version, name)


def dashboard(request: Request) -> Response:
    """The page, which is at `/`: the same address answers programs with something else."""
    return _page().answer(request, {**page_headers(), "Vary": "Accept"})


@cache
def _page() -> File:
    return FILES.page((_FOLDER / "index.html").read_text(encoding="utf-8"))

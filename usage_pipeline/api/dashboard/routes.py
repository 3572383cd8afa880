"""Serves the files of the dashboard. They have no secrets, and their policy lets them load and call only this service."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from usage_pipeline.api.problems import Problem

FOLDER = Path(__file__).resolve().parent
_MEDIA_TYPES = {
    "index.html": "text/html",
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "charts.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}
router = APIRouter()


@router.get("/dashboard/{name}", include_in_schema=False)
async def file(name: str) -> Response:
    """A file of the dashboard. The page itself is at `/`."""
    if name not in _MEDIA_TYPES:
        raise Problem(404, "not-found", "the dashboard has no such file")
    return dashboard_file(name)


def dashboard_file(name: str) -> Response:
    """One of the files."""
    return Response(_content(name), media_type=_MEDIA_TYPES[name], headers=_HEADERS)


def prefers_html(accept: str) -> bool:
    """Whether this Accept header prefers text/html to JSON, as browsers do. `*/*` alone, or no header, does not."""
    html = json = 0.0
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        if media_type in ("text/html", "application/xhtml+xml"):
            html = max(html, quality)
        elif media_type in ("application/json", "application/*"):
            json = max(json, quality)
    return html > json


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


@cache
def _content(name: str) -> bytes:
    return (FOLDER / name).read_bytes()

"""The page at `/` and its files, built from `web/`. They have no secrets, and load and call only this service."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from usage_pipeline.api.answers.files import File, FileSet
from usage_pipeline.api.answers.headers import page_headers

BUILT = Path(__file__).resolve().parent / "built"
_PAGE = "index.html"
_NOT_BUILT = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>usage_pipeline</title></head>
<body>
  <h1>The page is not built</h1>
  <p>Run <code>make setup</code> in the folder of the project (or only <code>python web/build.py</code>).
  Then start the service again.</p>
  <p>Everything else works: see the <a href="docs">API documentation</a>.</p>
</body>
</html>
"""
# The page makes no markup from text, so that a browser need not let it.
_NO_MARKUP_FROM_TEXT = "require-trusted-types-for 'script'; trusted-types 'none'"
router = APIRouter()


def _read() -> Mapping[str, bytes]:
    """Its files by name; none where it is not built."""
    return {path.name: path.read_bytes() for path in BUILT.glob("*.*") if path.name != _PAGE}


FILES = FileSet(_read)


@router.api_route("/dashboard/{version}/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def file(request: Request, version: str, name: str) -> Response:
    """A file of the page."""
    return FILES.answer(request, version, name)


def dashboard(request: Request) -> Response:
    """The page, which is at `/`: the same address answers programs with something else."""
    headers = page_headers()
    policy = f"{headers['Content-Security-Policy']}; {_NO_MARKUP_FROM_TEXT}"
    return page().answer(request, {**headers, "Content-Security-Policy": policy, "Vary": "Accept"})


@cache
def page() -> File:
    """The page with the addresses of its files, or how to build it."""
    built = BUILT / _PAGE
    return FILES.page(built.read_text(encoding="utf-8") if built.exists() else _NOT_BUILT)

"""Reads the body of a request within its limits, and decompresses it, also within a limit."""

import asyncio
import zlib
from collections.abc import Iterator, Sequence

from fastapi import Request
from starlette.requests import ClientDisconnect

from usage_pipeline.api.memory import SMALL_BYTES
from usage_pipeline.api.problems import Problem

# Members of a gzip file beyond any that a client would make; each empty one costs more time than its 20 bytes.
_MAX_GZIP_MEMBERS = 1_000
_PIECE_BYTES = 64 * 1024
_STEP_BYTES = 2**20
_SETTING = " (MAX_GZIP_SIZE)"
_GZIP_ONLY = 16 + zlib.MAX_WBITS
JSON = ("application/json",)
# One item a line. Nobody registered a name for it; these are the usual ones.
JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/ndjson", "application/x-jsonlines")
_UTF_8 = ("", "utf-8", "utf8", "us-ascii")


def media_type(request: Request, known: Sequence[str], expected: str = "") -> str:
    """The media type of the body, one of the known. Raises Problem (415) for another one, and for a charset but UTF-8.

    `expected` says more in a reason than their names.
    """
    given, _, parameters = request.headers.get("content-type", "").partition(";")
    name = given.strip().lower()
    accept = {"Accept": ", ".join(filter(None, known))}
    if name not in known:
        detail = f"Content-Type: expected {expected or ' or '.join(known)}, came {_shown(given)}"
        raise Problem(415, "unsupported-media-type", detail, accept)
    charset = _charset(parameters)
    if charset not in _UTF_8:
        raise Problem(415, "unsupported-media-type", f"charset: expected utf-8, came {_shown(charset)}", accept)
    return name


def is_compressed(request: Request) -> bool:
    """Whether the body is gzip. Raises Problem (415) for another encoding."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return False
    if encoding in ("gzip", "x-gzip"):
        return True
    detail = f"Content-Encoding: expected gzip or none, came {_shown(encoding)}"
    raise Problem(415, "unsupported-content-encoding", detail, {"Accept-Encoding": "gzip"})


def announced(request: Request, *, most: int, limit: str = _SETTING) -> int:
    """The bytes that the body may have: what its head says, or `most` when it does not say. Raises Problem (413) for more."""
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        return most
    if int(length) > most:
        raise _too_large(most, f"Content-Length: {length}", limit)
    return int(length)


async def received(request: Request, *, most: int, seconds: float, limit: str = _SETTING) -> bytearray:
    """The body as it was sent: at most `most` bytes, received within `seconds`. `limit` says whose number `most` is.

    Raises Problem (413, 408), and starlette.requests.ClientDisconnect when the sender goes away.
    """
    announced(request, most=most, limit=limit)
    whole = bytearray()
    request.state.is_body_read = False
    try:
        async with asyncio.timeout(seconds):
            while not request.state.is_body_read:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                whole += message.get("body", b"")
                request.state.is_body_read = not message.get("more_body", False)
                if len(whole) > most:
                    raise _too_large(most, "more", limit)
    except TimeoutError:
        detail = f"expected the whole body within {seconds:g} s, came {len(whole)} bytes of it"
        raise Problem(408, "request-timeout", detail) from None
    return whole


def decompressed(body: bytes | bytearray, *, most: int) -> bytearray:
    """The content of a gzip file of one or more members. It never decompresses more than `most` bytes.

    Raises Problem: 413 for more, 400 if the file is not gzip, is cut short, or has something after its end.
    """
    whole = bytearray()
    for piece in _pieces(body, most):
        whole += piece
    return whole


def opened(body: bytes | bytearray, *, most: int) -> bytearray | int:
    """The same, if the content is small. Of a larger one the size: it is not held before there is room for it."""
    whole, size = bytearray(), 0
    for piece in _pieces(body, most):
        size += len(piece)
        if size <= SMALL_BYTES:
            whole += piece
    return whole if size <= SMALL_BYTES else size


def _pieces(body: bytes | bytearray, most: int) -> Iterator[bytes]:
    size, view, place = 0, memoryview(body), 0
    for _ in range(_MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(_GZIP_ONLY)
        while not member.eof:
            source: bytes | memoryview = member.unconsumed_tail
            if not source:
                source = view[place : place + _PIECE_BYTES]
                place += len(source)
            try:
                piece = member.decompress(source, min(_STEP_BYTES, most + 1 - size))
            except zlib.error as error:
                raise _no_gzip(f"came one that cannot be read: {error}") from None
            size += len(piece)
            if size > most:
                detail = f"expected at most {most} bytes after decompression, came more"
                raise Problem(413, "body-too-large", detail)
            if not source and not piece and not member.eof:
                raise _no_gzip(f"came one that is cut short after {len(body)} bytes")
            yield piece
        place -= len(member.unused_data)
        if place == len(body):
            return
    raise _no_gzip(f"came one of more than {_MAX_GZIP_MEMBERS} members")


def _too_large(most: int, came: str, limit: str) -> Problem:
    return Problem(413, "body-too-large", f"expected at most {most} bytes as sent{limit}, came {came}")


def _no_gzip(came: str) -> Problem:
    return Problem(400, "invalid-gzip", f"body: expected gzip, as Content-Encoding says, {came}")


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""


def _shown(text: str) -> str:
    return repr(text.strip()[:100]) if text.strip() else "none"

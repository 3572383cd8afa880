"""Whole listings as files. Each file has its own database connection and is encoded while it is sent; few are sent at a time.

An error before the first byte is a problem document. A later error cuts the connection, so that no client takes a part of the
file for the whole.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api.places import Places
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.storing import Storing
from usage_pipeline.api.usage.queries import Format
from usage_pipeline.api.usage.reading import MAX_EXPORT_ROWS, Export, Rows, TooManyRows
from usage_pipeline.exports.columns import Column
from usage_pipeline.exports.encodings import CsvEncoding, Encoding, ParquetEncoding

MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
# Each holds a connection of the pool while it is read; the others are for requests that are answered at once.
_SHARE_OF_CONNECTIONS = 4
# For all of one file.
DOWNLOAD_SECONDS = 600
_log = logging.getLogger(__name__)


class Downloads:
    """The files that are being sent: at most a quarter of DB_POOL_SIZE, and at least one."""

    def __init__(self, storing: Storing, pool_size: int) -> None:
        self._storing = storing
        self._places = Places(
            max(1, pool_size // _SHARE_OF_CONNECTIONS),
            "downloads",
            "this server sends no more files at once. Ask again later",
        )

    async def of(
        self, columns: Sequence[Column], rows: Rows, format: Format, file_name: str, *, caller: AccessToken
    ) -> StreamingResponse:
        """All these rows, which this token may see, as an answer. Raises Problem: 422 for more than MAX_EXPORT_ROWS, 503."""
        encoding: Encoding = (CsvEncoding if format == "csv" else ParquetEncoding)(columns)
        export = Export(self._storing.pool, rows)
        pieces = self._pieces(export, encoding, caller.token_id)
        first = await anext(pieces)
        return _Download(first, pieces, MEDIA_TYPES[format], file_name)

    async def _pieces(self, export: Export, encoding: Encoding, token_id: str) -> AsyncGenerator[bytes, None]:
        with self._places.one(token_id):
            try:
                await self._storing.in_thread(export.open)
                while (piece := await self._storing.in_thread(lambda: _encoded(export, encoding))) is not None:
                    yield piece
                yield encoding.end()
            except TooManyRows:
                detail = (
                    f"expected at most {MAX_EXPORT_ROWS:,} rows in one file, came more. Ask for fewer days or one id"
                )
                raise Problem(422, "too-many-rows", detail) from None
            finally:
                # After what a thread is still at with this connection, even when this request was given up.
                await asyncio.shield(asyncio.to_thread(export.close))


class _Download(StreamingResponse):
    """A streamed answer that always closes its generator, also when the client goes away."""

    def __init__(self, first: bytes, pieces: AsyncGenerator[bytes, None], media_type: str, file_name: str) -> None:
        disposition = f'attachment; filename="{file_name}"'
        super().__init__(_beginning_with(first, pieces), headers={"Content-Disposition": disposition})
        self.headers["Content-Type"] = media_type
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope.get("state", {}).get("is_head"):
                # Its headers are known, and nobody wants the rows: their place is free before the client hears of it.
                await self._pieces.aclose()
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            async with asyncio.timeout(DOWNLOAD_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            _log.warning("a download was cut: the client did not read it to its end within %d s", DOWNLOAD_SECONDS)
            raise
        finally:
            await self._pieces.aclose()


async def _beginning_with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _encoded(export: Export, encoding: Encoding) -> bytes | None:
    rows = export.chunk()
    return encoding.rows(rows) if rows else None

"""What stays the same while the service runs (files of pages, the OpenAPI document): answered from memory, packed once.

A file's address has the version of its set, a hash of all files in it: browsers keep it for a year and do not ask again. What
has no version in its address is asked for each time, and is a 304 while the browser has the same (RFC 9110 §13).
"""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType

from fastapi import Request
from starlette.responses import Response

from usage_pipeline.api.answers.negotiation import is_known, takes_gzip
from usage_pipeline.api.problems import Problem

ASK_EACH_TIME = "no-cache"
_KEEP_FOR_A_YEAR = "public, max-age=31536000, immutable"
_HASH_CHARACTERS = 20
_MEDIA_TYPES = {
    "css": "text/css",
    "js": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    """Bytes with their type. `packed` is the same in gzip; None where that is not shorter."""

    content: bytes
    packed: bytes | None
    media_type: str
    digest: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "File":
        """Packs the content: two megabytes take a third of a second."""
        packed = gzip.compress(content, mtime=0)
        return cls(content, packed if len(packed) < len(content) else None, media_type, _hash(content))

    def answer(
        self, request: Request, headers: Mapping[str, str] = MappingProxyType({}), *, keep: str = ASK_EACH_TIME
    ) -> Response:
        """The file with these headers, or a 304. `keep` is its Cache-Control."""
        body, tag, encoding = self.content, f'"{self.digest}"', {}
        if self.packed is not None and takes_gzip(request.headers.get("accept-encoding", "")):
            body, tag, encoding = self.packed, f'"{self.digest}-gzip"', {"Content-Encoding": "gzip"}
        varies = ", ".join(filter(None, (headers.get("Vary"), "Accept-Encoding")))
        common = {**headers, "Cache-Control": keep, "ETag": tag, "Vary": varies}
        if is_known(tag, request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=common)
        return Response(body, media_type=self.media_type, headers={**common, **encoding})


class FileSet:
    """Files that belong together, under one version: relative addresses among them need not name it.

    `read` gives their contents by name. They are read once, at the first use.
    """

    def __init__(self, read: Callable[[], Mapping[str, bytes]]) -> None:
        self._read = read

    @cached_property
    def files(self) -> Mapping[str, File]:
        return {name: File.of(content, _media_type_of(name)) for name, content in self._read().items()}

    @cached_property
    def version(self) -> str:
        return _hash("".join(f"{name}:{file.digest};" for name, file in sorted(self.files.items())).encode())

    def load(self) -> None:
        """Reads and packs the files now."""
        self.version  # noqa: B018  # it is a hash of all of them

    def page(self, html: str) -> File:
        """A page that names files of this set by `{version}/name`."""
        return File.of(html.replace("{version}", self.version).encode(), "text/html")

    def answer(self, request: Request, version: str, name: str) -> Response:
        """One of the files. Raises Problem (404)."""
        file = self.files.get(name)
        if file is None:
            raise Problem(404, "not-found", "there is no such file")
        # While two versions of the service run side by side, the page of one asks the other for its files. It gets what there
        # is, and nobody keeps that under the address of something else.
        return file.answer(request, keep=_KEEP_FOR_A_YEAR if version == self.version else ASK_EACH_TIME)


def _media_type_of(name: str) -> str:
    return _MEDIA_TYPES[name.rpartition(".")[2]]


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()[:_HASH_CHARACTERS]

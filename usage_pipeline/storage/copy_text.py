"""Rows as the text that PostgreSQL's COPY reads. Pure; no I/O.

We have our own encoder because psycopg's needs Python values; here digits that came as text stay text.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

Field = str | int | bytes | datetime | UUID | None

NULL = b"\\N"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LONG_CHARACTERS = 4_096
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_has_signs = re.compile(r"[\\\t\n\r]").search


def copy_line(row: Iterable[Field]) -> bytes:
    """A row without its line end. Bytes are for a bytea column. A time becomes epoch microseconds, for a bigint column.

    Raises UnicodeEncodeError for text that is not Unicode (a lone surrogate), which PostgreSQL could not store.
    """
    return b"\t".join(NULL if field is None else _encoded(field) for field in row)


def escaped(text: str) -> bytes:
    """A text of any length. To translate a million characters takes up to 50 ms, while every other thread waits."""
    if len(text) < _LONG_CHARACTERS:
        # Nearly all short texts are without; to look costs a tenth of what to translate does.
        return text.translate(_ESCAPES).encode() if _has_signs(text) else text.encode()
    encoded = text.encode()
    for sign, escape in ((b"\\", b"\\\\"), (b"\t", b"\\t"), (b"\n", b"\\n"), (b"\r", b"\\r")):
        encoded = encoded.replace(sign, escape)
    return encoded


def _encoded(field: str | int | bytes | datetime | UUID) -> bytes:
    if isinstance(field, str):
        return escaped(field)
    if isinstance(field, bytes):
        return b"\\\\x" + field.hex().encode()
    if isinstance(field, datetime):
        return b"%d" % ((field - _EPOCH) // _MICROSECOND)
    return str(field).encode()

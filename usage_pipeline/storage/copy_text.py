"""Rows as the text that PostgreSQL's COPY reads. Pure; no I/O.

We have our own encoder because psycopg's needs Python values; here digits that came as text stay text.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

Field = str | int | bytes | datetime | UUID | None

NULL = b"\\N"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_line(row: Iterable[Field]) -> bytes:
    """A row without its line end. Bytes are for a bytea column. A time becomes epoch microseconds, for a bigint column.

    Raises UnicodeEncodeError for text that is not Unicode (a lone surrogate), which PostgreSQL could not store.
    """
    return b"\t".join(NULL if field is None else _encoded(field) for field in row)


def _encoded(field: str | int | bytes | datetime | UUID) -> bytes:
    if isinstance(field, str):
        return field.translate(_ESCAPES).encode()
    if isinstance(field, bytes):
        return b"\\\\x" + field.hex().encode()
    if isinstance(field, datetime):
        return b"%d" % ((field - _EPOCH) // _MICROSECOND)
    return str(field).encode()

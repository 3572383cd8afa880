"""Dead letters as JSON lines, to be put right with other tools and sent again."""

import os
from base64 import b64encode
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

import msgspec
import psycopg

from usage_pipeline.drain.dead_letters import Choice, StoredDeadLetter, every_one, whole
from usage_pipeline.values import UNREADABLE_JSON


def new_file(path: Path) -> BinaryIO:
    """A new file that only its owner can read: it gets what people wrote. Raises OSError, also if it is there."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def write_lines(
    write: Callable[[bytes], object],
    connection: psycopg.Connection,
    choice: Choice,
    *,
    plain_families: Collection[str],
    with_reasons: bool,
) -> list[int]:
    """Writes the open dead letters of a choice, and those that it names, each as a line with its end. Returns their numbers.

    Those of `plain_families` are the items as they came, so that the lines are a file for the landing folder once they are put
    right. `with_reasons`, and for all other families, a line is an object with number, reason and place around it.
    """
    written: list[int] = []
    for listed in every_one(connection, choice):
        letter = whole(connection, listed.dead_letter_id)
        if letter is not None:
            is_plain = letter.family in plain_families and not with_reasons
            write((_line(letter.raw) if is_plain else _envelope(letter)) + b"\n")
            written.append(letter.dead_letter_id)
    return written


def _envelope(letter: StoredDeadLetter) -> bytes:
    members: dict[str, object] = {
        "dead_letter_id": letter.dead_letter_id,
        "family": letter.family,
        "source_key": letter.source_key.decode(errors="backslashreplace"),
        "position": letter.position,
        "member": letter.member,
        "reason": letter.reason,
        "claimed_at": letter.claimed_at.isoformat(),
        "raw_format": letter.raw_format,
    }
    item = _line(letter.raw) if letter.raw_format == "string" else b""
    if _is_json(item):
        return msgspec.json.encode({**members, "item": msgspec.Raw(item)})
    return msgspec.json.encode({**members, "raw_base64": b64encode(letter.raw).decode()})


def _line(raw: bytes) -> bytes:
    """The item on one line: an item of a JSON array may have many. What is no JSON was a line already."""
    if b"\n" not in raw:
        return raw
    try:
        return bytes(msgspec.json.format(raw, indent=-1))
    except UNREADABLE_JSON:
        return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def _is_json(item: bytes) -> bool:
    try:
        msgspec.json.decode(item)
    except UNREADABLE_JSON:
        return False
    return True

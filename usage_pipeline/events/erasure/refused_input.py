"""Erases a user in refused or conflicting input: a random name replaces the id, and free-form parts go. Pure.

Only input whose `user_id` is the id counts as the user's: an id may be as short as `1`, and a dead letter that is changed
wrongly would count for another key when it is replayed. Input that cannot be read is never replayed: there every occurrence
is removed.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import hiredis
import msgspec

from usage_pipeline.drain.batch import raw_value
from usage_pipeline.drain.event_queue import RequestEvent
from usage_pipeline.events.ingest.model import MessageArchive, UsageEvent

_FREE = {"prompt", "extra", "prompt_full", "response_full"}
# Members and fields that the pipeline knows; others are extra.
_KNOWN = {
    *RequestEvent.__struct_fields__,
    *(set(UsageEvent.__struct_fields__) | set(MessageArchive.__struct_fields__)) - _FREE,
    *("upload_count", "total_file_size", "last_used_at"),
}


def needles(user_id: str) -> list[bytes]:
    """The byte strings that find input with the id: the id as it is, and as JSON may write it."""
    written = {user_id, json.dumps(user_id)[1:-1], json.dumps(user_id, ensure_ascii=False)[1:-1]}
    return sorted(text.encode() for text in written)


def erased_json(raw: bytes, user_id: str, pseudonym: str) -> bytes | None:
    """A JSON object of that user without prompts, archives and unknown members; None when it is not the user's."""
    try:
        members = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _erased_bytes(raw, needles(user_id), pseudonym)
    if not isinstance(members, dict):
        return _erased_bytes(raw, needles(user_id), pseudonym)
    if members.get("user_id") != user_id:
        return None
    kept: dict[str, Any] = {name: value for name, value in members.items() if name in _KNOWN}
    return msgspec.json.encode(kept | {"user_id": pseudonym})


def erased_letter(raw: bytes, raw_format: str, user_id: str, pseudonym: str) -> bytes | None:
    """The raw value of a dead letter without the user. None when it is not the user's."""
    if raw_format == "hash":
        return _erased_hash(raw, user_id.encode(), pseudonym.encode())
    if raw_format == "string":
        return erased_json(raw, user_id, pseudonym)
    # Text in a Redis DUMP cannot be replaced: the DUMP has lengths and a checksum. It is never replayed, so it goes as a whole.
    return b"" if _erased_bytes(raw, needles(user_id), pseudonym) is not None else None


def erased_reason(reason: str) -> str:
    """The reason with only what was expected: what came may be the value itself."""
    expected, came, _ = reason.partition(", came ")
    return f"{expected}, came a value that was erased" if came else reason


def _erased_hash(raw: bytes, user_id: bytes, pseudonym: bytes) -> bytes | None:
    fields = raw_value(raw, "hash")
    if not isinstance(fields, list):
        return None
    pairs = list(zip(fields[::2], fields[1::2], strict=False))
    if (b"user_id", user_id) not in pairs:
        return None
    kept = [
        (name, pseudonym if name == b"user_id" else value) for name, value in pairs if name.decode("latin-1") in _KNOWN
    ]
    packed: bytes = hiredis.pack_command(tuple(_flat(kept)))  # type: ignore[arg-type]  # its stub means `tuple[..., ...]`
    return packed


def _flat(pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [text for pair in pairs for text in pair]


def _erased_bytes(raw: bytes, wanted: list[bytes], pseudonym: str) -> bytes | None:
    """The bytes with the random name in place of each id that is not a part of a longer word. None without such an id."""
    any_of_them = b"|".join(re.escape(each) for each in wanted)
    erased, occurrences = re.subn(rb"(?<![\w-])(?:%b)(?![\w-])" % any_of_them, pseudonym.encode(), raw)
    return erased if occurrences else None

"""Erases a user in refused or conflicting input: a pseudonym replaces the id, and free-form parts go. Pure.

Input with another user's `user_id` is not the user's: an id may be as short as `1`, and a dead letter that is changed wrongly
would count for another key when it is replayed. Input without any is the user's when something else in it is the id. Input
that cannot be read is never replayed: of the user's own only the pseudonym stays, and elsewhere every occurrence is removed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import hiredis
import msgspec

from usage_pipeline.drain.batch import raw_value
from usage_pipeline.drain.event_queue import RequestEvent
from usage_pipeline.events.erasure.redis_dump import texts_of
from usage_pipeline.events.erasure.spellings import Members, Number, Spellings, members_of
from usage_pipeline.events.ingest.members import identity
from usage_pipeline.events.ingest.model import LANDING, MessageArchive, UsageEvent
from usage_pipeline.events.units.providers import without_texts
from usage_pipeline.events.units.registry import SENT_UNITS
from usage_pipeline.values import Malformed

_FREE = {"prompt", "extra", "tags", "prompt_full", "response_full"}
# Known members that hold others. What is no number in them goes.
_COUNTS = {"usage", "provider_usage"}
# One of these is in each usage event and each archive, and in no request event.
_OF_EVENTS = {"event_time", "prompt_full", "response_full"}
# Members and fields that the pipeline knows; others are extra.
_KNOWN = {
    *RequestEvent.__struct_fields__,
    *(set(UsageEvent.__struct_fields__) | set(MessageArchive.__struct_fields__)) - _FREE,
    *("upload_count", "total_file_size", "last_used_at"),
}
# Members of an event's row that a client chose, and that may tell who somebody is.
_NAMING = {"tags", "source", "external_id"}
_ERASED_VALUE = "a value that was erased"
# The drain writes the hash of the stored event into the reason: with it, an erased id could be found by trying.
_HASH = re.compile(r" \(hash [0-9a-f]+\)")


def erased_json(raw: bytes, who: Spellings, pseudonym: str) -> bytes | None:
    """A JSON object of that user without prompts, archives and unknown members; None when it is not the user's."""
    if not (who.is_quoted_in(raw) or who.is_in(raw)):
        return None
    members = members_of(raw)
    if members is None:
        return msgspec.json.encode({"user_id": pseudonym}) if who.owns(raw) else who.replaced(raw, pseudonym)
    users = [value for name, value in members if name == "user_id"]
    theirs = bool(users) and isinstance(users[-1], str) and bool(users[-1]) and not who.means(users[-1])
    if not any(map(who.means, users)) and (theirs or not any(who.is_named(*each) for each in _free(members))):
        return None
    return _encoded(members, users[-1] if theirs else pseudonym)


def without_free_text(raw: bytes) -> bytes | None:
    """A JSON object without prompts, archives and unknown members; None when it has none, or is no object."""
    members = members_of(raw)
    if members is None or not any(name in _FREE or name not in _KNOWN for name, _ in members):
        return None
    return _encoded(members, None)


def without_unknown_fields(raw: bytes) -> bytes | None:
    """A hash without fields that the pipeline does not know; None when it has none, or is no hash."""
    fields = raw_value(raw, "hash")
    if not isinstance(fields, list):
        return None
    pairs = list(zip(fields[::2], fields[1::2], strict=False))
    kept = [pair for pair in pairs if pair[0].decode("latin-1") in _KNOWN]
    return _packed(kept) if len(kept) < len(pairs) else None


def erased_correction(values: Mapping[str, Any], who: Spellings, pseudonym: str, *, is_theirs: bool) -> dict[str, Any]:
    """The members of a correction without the user. Values are texts that may be JSON, or those of an event's row.

    `is_theirs`: unknown members go as a whole. Of a row of the user, what may name a person goes.
    """
    is_of_user = values.get("user_id") == who.user_id
    return {
        name: _erased_value(name, value, who, pseudonym, is_theirs)
        for name, value in values.items()
        if not (is_of_user and name in _NAMING)
    }


def _erased_value(name: str, value: Any, who: Spellings, pseudonym: str, is_theirs: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            erased_text(each, who, pseudonym): _erased_value(each, inner, who, pseudonym, is_theirs=False)
            for each, inner in value.items()
        }
    if not isinstance(value, str):
        return value
    read = (members_of(b'{"": %b}' % value.encode()) or [("", None)])[0][1]
    if value == who.user_id or (who.means(read) and (name == "user_id" or not isinstance(read, Number))):
        return pseudonym
    if is_theirs and name not in _KNOWN:
        return _ERASED_VALUE
    return erased_text(value, who, pseudonym)


def erased_text(text: str, who: Spellings, pseudonym: str) -> str:
    """Any text with the pseudonym in place of the id."""
    changed = who.replaced(text.encode(), pseudonym)
    return text if changed is None else changed.decode("utf-8", "replace")


def erased_letter(raw: bytes, raw_format: str, who: Spellings, pseudonym: str) -> bytes | None:
    """The raw value of a dead letter without the user. None when it is not the user's."""
    if raw_format == "hash":
        return _erased_hash(raw, who, pseudonym.encode())
    if raw_format == "string":
        return erased_json(raw, who, pseudonym)
    # Text in a Redis DUMP cannot be replaced: the DUMP has lengths and a checksum. It is never replayed, so it goes as a whole.
    return b"" if any(map(who.is_in, texts_of(raw))) else None


def erased_reason(reason: str) -> str:
    """The reason with only what was expected: what came may be the value itself."""
    expected, came, _ = reason.partition(", came ")
    return f"{_HASH.sub('', expected)}, came {_ERASED_VALUE}" if came else reason


def _free(members: Members) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in members if name not in _KNOWN or name in ("user_id", *_COUNTS)]


def _encoded(members: Members, user: Any) -> bytes:
    """The known members as they were; the last one of a name counts. A known member that holds others is no value of it,
    but for counts. An id that is no UUID may tell of a person: the row's own takes its place.
    """
    kept = {
        name: _written(value)
        for name, value in members
        if name in _KNOWN and (not isinstance(value, list) or name in _COUNTS)
    }
    for name in _COUNTS & kept.keys():
        if isinstance(kept[name], dict):
            kept[name] = without_texts(kept[name]) if name == "provider_usage" else _numbers(kept[name])
    if kept.keys() & _OF_EVENTS or _OF_EVENTS & {name for name, _ in members}:
        kept |= _own_id(kept)
    return msgspec.json.encode(kept if user is None else kept | {"user_id": _written(user)})


def _numbers(counts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in counts.items() if name in SENT_UNITS and isinstance(value, msgspec.Raw)}


def _own_id(members: Mapping[str, Any]) -> dict[str, str]:
    """The id of the row of an event, where its client gave another one; nothing for what is no id."""
    event_id, source = members.get("event_id"), members.get("source")
    if not isinstance(event_id, str) or not isinstance(source, str | None):
        return {}
    try:
        return {"event_id": str(identity(event_id, source, LANDING).event_id)}
    except Malformed:
        return {"event_id": ""}


def _written(value: Any) -> Any:
    if isinstance(value, Number):
        return msgspec.Raw(value.encode())
    if isinstance(value, Members):
        return {name: _written(inner) for name, inner in value}
    return [_written(inner) for inner in value] if isinstance(value, list) else value


def _erased_hash(raw: bytes, who: Spellings, pseudonym: bytes) -> bytes | None:
    fields = raw_value(raw, "hash")
    if not isinstance(fields, list):
        return None
    pairs = list(zip(fields[::2], fields[1::2], strict=False))
    users = [value for name, value in pairs if name == b"user_id"]
    is_other = any(value and value != who.user_id.encode() for value in users)
    named = [value for name, value in pairs if name == b"user_id" or name.decode("latin-1") not in _KNOWN]
    if is_other or who.user_id.encode() not in named:
        return None
    kept = [
        (name, pseudonym if name == b"user_id" else value) for name, value in pairs if name.decode("latin-1") in _KNOWN
    ]
    return _packed(kept)


def _packed(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(_flat(pairs)))  # type: ignore[arg-type]  # its stub means `tuple[..., ...]`
    return packed


def _flat(pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [text for pair in pairs for text in pair]

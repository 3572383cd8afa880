"""Changes that people make to refused input, so that it can count: `dead-letters replay --set`. ops.corrections keeps them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import hiredis
import msgspec
import psycopg
from psycopg.types.json import Jsonb

from usage_pipeline import values
from usage_pipeline.drain.batch import RawFormat, raw_value
from usage_pipeline.drain.members import decode_members
from usage_pipeline.storage.sql import load
from usage_pipeline.values import UNREADABLE_JSON, Malformed

# In hashes, a time is epoch milliseconds; in JSON it is ISO-8601 (contracts §1).
_TIME_OF_HASHES, _TIMES_OF_JSON = "last_used_at", frozenset(("lastUsedAt", "at"))
# Epoch milliseconds of years that a calendar has.
_MOST_DIGITS = 14
# What a dead letter of another member holds besides it: for whom and for which day it counts.
_WHO_AND_WHEN = frozenset(("last_used_at", "provider", "usageCount", "lastUsedAt", "instanceId", "event_id"))


@dataclass(frozen=True, slots=True)
class Correction:
    """New values of members by name, why, and by whom."""

    members: Mapping[str, str]
    reason: str
    corrected_by: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The raw value of a dead letter after a correction. `before` has the values that came; None for one that did not."""

    raw: bytes
    before: dict[str, str | None]


def change(
    raw: bytes, raw_format: RawFormat, member: str | None, known: frozenset[str], changes: Mapping[str, str]
) -> Changed:
    """Sets members of a refused value; `member` is the one that a dead letter is about, None for a whole key or item.

    In a hash, a value is text. In JSON it is JSON, or text if it is no JSON. A time may be written as ISO-8601 or as epoch
    milliseconds, whichever the value itself has. `known` are the members that a whole value may
    get besides those that it has; empty for any. Raises Malformed.
    """
    if raw_format == "dump":
        raise Malformed("--set: expected a hash or a JSON object, came a key of another type")
    before: dict[str, str | None] = {}
    if raw_format == "hash":
        value = cast(Sequence[bytes], raw_value(raw, "hash"))
        fields = dict(zip(value[::2], value[1::2], strict=True))
        _expect_settable(changes, member, known, frozenset(_text(name) for name in fields))
        for name, given in changes.items():
            text = _in_ms(given) if name == _TIME_OF_HASHES else given
            before[name] = _text(fields[name.encode()]) if name.encode() in fields else None
            fields[name.encode()] = text.encode()
        packed = tuple(part for pair in fields.items() for part in pair)
        return Changed(hiredis.pack_command(packed), before)  # type: ignore[arg-type]  # its stub means `tuple[..., ...]`
    try:
        members = decode_members(raw)
    except UNREADABLE_JSON:
        raise Malformed("--set: expected a JSON object, came something else: no member of it can be set") from None
    _expect_settable(changes, member, known, frozenset(members))
    for name, given in changes.items():
        text = _in_iso(given) if name in _TIMES_OF_JSON else given
        before[name] = _text(bytes(members[name])) if name in members else None
        members[name] = _json(text)
    return Changed(msgspec.json.encode(members), before)


def note(connection: psycopg.Connection, subject: str, changed: Changed, correction: Correction) -> None:
    """Keeps a correction. In the transaction that makes it count."""
    arguments: dict[str, Any] = {
        "corrected_by": correction.corrected_by,
        "reason": correction.reason,
        "subject": subject,
        "before": Jsonb(changed.before),
        "after": Jsonb(dict(correction.members)),
    }
    connection.execute(load("drain/insert_correction"), arguments)


def is_noted(connection: psycopg.Connection, subject: str, correction: Correction) -> bool:
    """Whether a correction with the same values was made to count, by whomever."""
    query = "select exists (select 1 from ops.corrections where subject = %s and after = %s)"
    [(is_there,)] = connection.execute(query, (subject, Jsonb(dict(correction.members)))).fetchall()
    return bool(is_there)


def _expect_settable(
    changes: Mapping[str, str], member: str | None, known: frozenset[str], present: frozenset[str]
) -> None:
    """Of a dead letter of one member, only that one: the others count already."""
    if member is not None:
        settable = {member, *(present - _WHO_AND_WHEN)}
    elif known:
        settable = {*known, *present}
    else:
        return
    for name in changes:
        if name not in settable:
            raise Malformed(f"--set: expected one of {', '.join(sorted(settable))}, came {name}")


def _in_ms(text: str) -> str:
    """An ISO-8601 time as epoch milliseconds; without an offset it is taken as UTC. Another text as it is."""
    try:
        at = datetime.fromisoformat(text) if not text.isdigit() else None
    except ValueError:
        at = None
    if at is None:
        return text
    return str(int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))


def _in_iso(text: str) -> str:
    """Epoch milliseconds as an ISO-8601 time. Another text as it is."""
    if not text.isdigit() or not text.isascii() or len(text) > _MOST_DIGITS:
        return text
    return values.from_ms(int(text)).isoformat()


def _json(text: str) -> msgspec.Raw:
    try:
        msgspec.json.decode(text)
    except UNREADABLE_JSON:
        return msgspec.Raw(msgspec.json.encode(text))
    return msgspec.Raw(text.encode())


def _text(content: bytes) -> str:
    return content.decode(errors="backslashreplace").replace("\0", "\\x00")

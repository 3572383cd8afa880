"""Changes that people make to refused input, so that it can count: `dead-letters replay --set` and `--unset`.

ops.corrections keeps them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import hiredis
import msgspec
import psycopg
from msgspec import inspect
from psycopg.types.json import Jsonb

from usage_pipeline import values
from usage_pipeline.drain.batch import RawFormat, raw_value
from usage_pipeline.drain.members import decode_members
from usage_pipeline.storage.sql import load
from usage_pipeline.values import UNREADABLE_JSON, Malformed, shown

# In hashes, a time is epoch milliseconds; in JSON it is ISO-8601 (contracts §1).
_TIME_OF_HASHES, _TIMES_OF_JSON = "last_used_at", frozenset(("lastUsedAt", "at"))
# Epoch milliseconds of years that a calendar has.
_MOST_DIGITS = 14
# What a dead letter of another member holds besides it: for whom and for which day it counts.
_WHO_AND_WHEN = frozenset(("last_used_at", "provider", "usageCount", "lastUsedAt", "instanceId", "event_id"))


@dataclass(frozen=True, slots=True)
class Correction:
    """New values of members by name (None: the member is taken away), why, and by whom.

    `usage.cache_read_tokens` is a member of the object `usage`.
    """

    members: Mapping[str, str | None]
    reason: str
    corrected_by: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The raw value of a dead letter after a correction. `before` has the values that came; None for one that did not."""

    raw: bytes
    before: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Settable:
    """Members that a whole value may get besides those that it has; without any, all names are allowed.

    In JSON, `texts` are texts whatever they look like, so are the values in objects `text_maps`; `objects` have members.
    """

    members: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    objects: frozenset[str] = frozenset()
    text_maps: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: type[msgspec.Struct]) -> "Settable":
        """The members of a struct."""
        info = cast(inspect.StructType, inspect.type_info(model))
        kinds = {field.encode_name: _kinds(field.type) for field in info.fields}
        objects = {name: kind for name, found in kinds.items() for kind in found if isinstance(kind, inspect.DictType)}
        return cls(
            frozenset(kinds),
            frozenset(name for name, found in kinds.items() if _are_texts(found)),
            frozenset(objects),
            frozenset(name for name, kind in objects.items() if _are_texts(_kinds(kind.value_type))),
        )


ANY = Settable()
_TEXTS = (inspect.StrType, inspect.UUIDType, inspect.DateTimeType)


def _are_texts(kinds: Sequence[inspect.Type]) -> bool:
    return bool(kinds) and all(isinstance(kind, _TEXTS) for kind in kinds)


def _kinds(type_: inspect.Type) -> list[inspect.Type]:
    """The types that a member may have, other than null."""
    found = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    return [kind for kind in found if not isinstance(kind, inspect.NoneType)]


def change(
    raw: bytes, raw_format: RawFormat, member: str | None, settable: Settable, changes: Mapping[str, str | None]
) -> Changed:
    """Sets or takes away members of a refused value; `member` is the one that a dead letter is about, None for a whole value.

    In a hash, a value is text. In JSON it is JSON, or text if it is no JSON or the member is a text. A time may be written as
    ISO-8601 or as epoch milliseconds, whichever the value itself has. Raises Malformed.
    """
    if member is not None and None in changes.values():
        raise Malformed(
            f"--unset: expected a whole value, came one of {member} alone: nothing is left of it. Discard it"
        )
    present = _present(raw, raw_format)
    _expect_settable(changes, member, settable, frozenset(present))
    before: dict[str, str | None] = {}
    if raw_format == "hash":
        for name, text in changes.items():
            value = _in_ms(text) if text is not None and name == _TIME_OF_HASHES else text
            before[name] = _replaced(present, name, None if value is None else value.encode())
        packed = tuple(part for name, value in present.items() for part in (name.encode(*_EXACT), value))
        return Changed(hiredis.pack_command(packed), before)  # type: ignore[arg-type]  # its stub means `tuple[..., ...]`
    for name, text in changes.items():
        value = _in_iso(text) if text is not None and name in _TIMES_OF_JSON else text
        before[name] = _set(present, name, value, settable, "")
    return Changed(msgspec.json.encode({name: msgspec.Raw(value) for name, value in present.items()}), before)


def settable_members(
    raw: bytes, raw_format: RawFormat, member: str | None, settable: Settable
) -> frozenset[str] | None:
    """The names that `change` takes for this value; None for any. Raises Malformed if no member of it can be set."""
    return _settable(member, settable, frozenset(_present(raw, raw_format)))


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


# Names in Redis may be any bytes.
_EXACT = ("utf-8", "surrogateescape")


def _present(raw: bytes, raw_format: RawFormat) -> dict[str, bytes]:
    if raw_format == "dump":
        raise Malformed("--set: expected a hash or a JSON object, came a key of another type")
    if raw_format == "hash":
        value = cast(Sequence[bytes], raw_value(raw, "hash"))
        return {name.decode(*_EXACT): text for name, text in zip(value[::2], value[1::2], strict=True)}
    try:
        return {name: bytes(value) for name, value in decode_members(raw).items()}
    except UNREADABLE_JSON:
        raise Malformed("--set: expected a JSON object, came something else: no member of it can be set") from None


def _settable(member: str | None, settable: Settable, present: frozenset[str]) -> frozenset[str] | None:
    """Of a dead letter of one member, only that one: the others count already."""
    if member is not None:
        return frozenset({member}) | (present - _WHO_AND_WHEN)
    return settable.members | present if settable.members else None


def _expect_settable(
    changes: Mapping[str, str | None], member: str | None, settable: Settable, present: frozenset[str]
) -> None:
    names = _settable(member, settable, present)
    for name in changes:
        if names is not None and name not in names and (name.partition(".")[0] not in names or member is not None):
            shown = sorted(_text(each.encode(*_EXACT)) for each in names)
            raise Malformed(f"--set: expected one of {', '.join(shown)}, came {name}")


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


def _set(members: dict[str, bytes], name: str, text: str | None, settable: Settable, within: str) -> str | None:
    """Sets a member of an object, or of an object in it, and returns what was there."""
    first, dot, rest = name.partition(".")
    if name in members or not dot or within in settable.text_maps:
        is_text = name in settable.texts if not within else within in settable.text_maps
        return _replaced(members, name, None if text is None else _json(text, is_text=is_text))
    if not within and first not in settable.objects and first not in members:
        raise Malformed(f"--set {name}: expected a member that is an object, {first} is none")
    inner = members.get(first, b"null")
    try:
        found = {} if inner == b"null" else {each: bytes(value) for each, value in decode_members(inner).items()}
    except UNREADABLE_JSON:
        raise Malformed(f"--set {name}: expected a JSON object as {first}, came {shown(inner)}") from None
    before = _set(found, rest, text, settable, first)
    members[first] = msgspec.json.encode({each: msgspec.Raw(value) for each, value in found.items()})
    return before


def _replaced(members: dict[str, bytes], name: str, value: bytes | None) -> str | None:
    before = members.get(name)
    if value is not None:
        members[name] = value
    elif before is not None:
        del members[name]
    else:
        raise Malformed(f"--unset: expected a member that is there, came {name}")
    return None if before is None else _text(before)


def _json(text: str, *, is_text: bool) -> bytes:
    """JSON as it is, anything else as a text. For a member that is a text, only a JSON text and null are JSON."""
    try:
        value = msgspec.json.decode(text)
    except UNREADABLE_JSON:
        return msgspec.json.encode(text)
    return msgspec.json.encode(text) if is_text and not isinstance(value, str | None) else text.encode()


def _text(content: bytes) -> str:
    return content.decode(errors="backslashreplace").replace("\0", "\\x00")

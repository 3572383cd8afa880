"""The members of a key or a queue item, judged one by one: a member that is refused does not cost the others. Pure.

A refused member is kept in the form of a key's value, beside what says for whom and for which day it would count. So a replay
reads it like a key that has this one member.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from usage_pipeline import values
from usage_pipeline.storage.copy_text import Field
from usage_pipeline.values import MAX_ID_CHARACTERS, UNREADABLE_JSON, Malformed, TimeWindow

Judged = TypeVar("Judged")
Row = tuple[Field, ...]
# The answer of Redis to the read command of a family: fields and values in turn (HGETALL), or a string (GET).
Value = Sequence[bytes] | bytes

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
# A member takes 150 bytes of memory, and in JSON no more than six. A million of them in one value could end a drain.
_MOST_COLONS = 100_000


def decode_members(value: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, not decoded. Raises Malformed for too many of them, and one of UNREADABLE_JSON."""
    if len(value) > _MOST_COLONS and (colons := value.count(b":")) > _MOST_COLONS:
        raise Malformed(f"value: expected JSON with at most {_MOST_COLONS} colons, came {colons}")
    return _decode_members(value)


@dataclass(frozen=True, slots=True)
class RefusedMember:
    """A member that cannot be stored: its name, what was expected and what came, and the value that a replay reads."""

    member: str
    reason: str
    raw: Value


class Parsed(NamedTuple):
    """A key or an item that can be stored: its row, and the members that the row is without."""

    row: Row
    refused: Sequence[RefusedMember] = ()


def claim_time(window: TimeWindow) -> datetime:
    """What takes the place of a time that cannot be (values.PossibleTimes)."""
    return values.from_ms(window.claimed_ms)


def member_name(name: bytes | str) -> str:
    """The name of a member as PostgreSQL can store it."""
    text = name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
    return text.replace("\0", "\\x00")[:MAX_ID_CHARACTERS]


class HashMembers:
    """The fields of a hash. Each is taken once; what is left are the unknown ones. `context` says who and when."""

    def __init__(self, value: Value, window: TimeWindow, context: tuple[bytes, ...] = (b"last_used_at",)) -> None:
        if isinstance(value, bytes):
            raise Malformed("value: expected a hash, came a string")
        self._left = dict(zip(value[::2], value[1::2], strict=True))
        self._window = window
        self._context = [(name, self._left[name]) for name in context if name in self._left]
        self._refused: list[tuple[str, str, list[tuple[bytes, bytes]]]] = []

    def count(self, name: str) -> int:
        return self.take(name, lambda content: values.count(name, content)) or 0

    def time(self, name: str) -> datetime | None:
        """A time in epoch milliseconds. The time of the claim for one that cannot be, None for none."""
        is_there = name.encode() in self._left
        at = self.take(name, lambda content: values.epoch_ms(name, content, self._window))
        if at is None and is_there:
            self._context = [(kept, content) for kept, content in self._context if kept != name.encode()]
            return claim_time(self._window)
        return at

    def take(self, name: str, judge: Callable[[bytes], Judged]) -> Judged | None:
        """What `judge` makes of a field. None if the field is not there, or if `judge` raises Malformed: then it is refused."""
        content = self._left.pop(name.encode(), None)
        if content is None:
            return None
        try:
            return judge(content)
        except Malformed as malformed:
            self._refused.append((name, str(malformed), [(name.encode(), content)]))
            return None

    def text(self, name: bytes) -> bytes | None:
        """A field as it came, None for none."""
        return self._left.pop(name, None)

    def unknown(self) -> str | None:
        """The fields that are left, as JSON. Those that are no text get one dead letter; all of them, if too large together."""
        if not self._left:
            return None
        try:
            size = sum(len(name) + len(content) for name, content in self._left.items())
            values.within_unknown_limit("unknown fields", size)
        except Malformed as malformed:
            self._refuse_unknown([*self._left.items()], str(malformed))
            return None
        kept: dict[str, str] = {}
        refused: list[tuple[bytes, bytes]] = []
        reason = ""
        for name, content in self._left.items():
            try:
                kept[_text(name, name)] = _text(content, name)
            except Malformed as malformed:
                refused.append((name, content))
                reason = reason or str(malformed)
        self._refuse_unknown(refused, reason)
        if not kept:
            return None
        text = values.storable_json(kept, "unknown field")
        try:
            values.within_unknown_limit("unknown fields as JSON", len(text.encode()))
        except Malformed as malformed:
            self._refuse_unknown([(name.encode(), content.encode()) for name, content in kept.items()], str(malformed))
            return None
        return text

    def refused(self) -> list[RefusedMember]:
        """The refused fields, each with the fields that say who and when. To be asked after all fields were taken."""
        return [
            RefusedMember(name, reason, [text for pair in (*self._others(pairs), *pairs) for text in pair])
            for name, reason, pairs in self._refused
        ]

    def _others(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in pairs}
        return [pair for pair in self._context if pair[0] not in names]

    def _refuse_unknown(self, pairs: list[tuple[bytes, bytes]], reason: str) -> None:
        if pairs:
            self._refused.append((member_name(pairs[0][0]), _and_others(reason, len(pairs)), pairs))


class JsonMembers:
    """The members of a JSON object that are refused, each with those members that say who and when.

    `context` names these. `instead` are members that a dead letter has in place of what came.
    """

    def __init__(
        self,
        members: Mapping[str, msgspec.Raw],
        context: tuple[str, ...] = (),
        instead: Mapping[str, msgspec.Raw] = MappingProxyType({}),
    ) -> None:
        self._members = members
        self._context = context
        self._instead = instead
        self._refused: list[tuple[str, str, dict[str, msgspec.Raw]]] = []

    def has_refused(self, name: str) -> bool:
        return any(name in members for _, _, members in self._refused)

    def decoded(self, name: str, expected: str, kind: Any) -> Any:
        """A member as a value of this type. None if it is not there, or is refused since it is of another type."""
        try:
            return msgspec.json.decode(self._members[name], type=kind) if name in self._members else None
        except UNREADABLE_JSON:
            self._refuse(name, f"{name}: expected {expected}, came {values.shown(bytes(self._members[name]))}")
            return None

    def checked(self, name: str, value: Judged | None, judge: Callable[[Judged], Judged]) -> Judged | None:
        """What `judge` makes of the value of a member. None for none, or if `judge` raises Malformed: then it is refused."""
        try:
            return None if value is None else judge(value)
        except Malformed as malformed:
            self._refuse(name, str(malformed))
            return None

    def unknown(self, known: frozenset[str]) -> str | None:
        """The members that are not `known`, as JSON in the order of their names. None when there are none.

        They are decoded and written again. The typed decoder skips them without a check, and jsonb refuses some of what it
        skips (bad UTF-8, 1e400000, NUL): those are refused, in one dead letter. So are all, if they are too large together.
        """
        if self._members.keys() <= known:
            return None
        left = {name: raw for name, raw in self._members.items() if name not in known}
        kept: dict[str, object] = {}
        refused: dict[str, msgspec.Raw] = {}
        reason = ""
        try:
            values.within_unknown_limit("unknown members", sum(memoryview(raw).nbytes for raw in left.values()))
        except Malformed as malformed:
            left, refused, reason = {}, left, str(malformed)
        for name, raw in left.items():
            try:
                kept[name] = _storable(name, raw)
            except Malformed as malformed:
                refused[name] = raw
                reason = reason or str(malformed)
        if refused:
            self._refused.append((member_name(next(iter(refused))), _and_others(reason, len(refused)), refused))
        return values.storable_json(kept, "JSON member") if kept else None

    def _refuse(self, name: str, reason: str) -> None:
        self._refused.append((name, reason, {name: self._members[name]}))

    def refused(self) -> Sequence[RefusedMember]:
        """The refused members, each with those that say who and when. To be asked after all members were judged."""
        if not self._refused:
            return ()
        bad = {name for _, _, members in self._refused for name in members}
        context = {name: self._members[name] for name in self._context if name in self._members and name not in bad}
        return [
            RefusedMember(name, reason, msgspec.json.encode({**self._instead, **context, **members}))
            for name, reason, members in self._refused
        ]


def _storable(name: str, raw: msgspec.Raw) -> object:
    try:
        decoded = msgspec.json.decode(raw)
        values.storable_json({name: decoded}, "JSON member")
    except UNREADABLE_JSON as error:
        shown = values.shown(name.encode())
        raise Malformed(
            f"value: expected JSON members that can be stored, came {shown}: {values.described(error)}"
        ) from None
    return decoded


def _text(text: bytes, name: bytes) -> str:
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise Malformed(f"unknown field: expected UTF-8, came {values.shown(name)}") from None
    if "\0" in decoded:
        raise Malformed("unknown field: expected no NUL character, came one")
    return decoded


def _and_others(reason: str, number: int) -> str:
    return reason if number == 1 else f"{reason}; this dead letter has {number} such members"

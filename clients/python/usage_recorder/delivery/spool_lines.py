"""The lines of a spool file, and what they say. Pure; no I/O. Each is JSON: a send, that a send is settled, or what waits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from typing import Any, NamedTuple, get_args

from usage_recorder.commands import Family, Moment, Record
from usage_recorder.delivery.sends import Part, Send
from usage_recorder.keys import MAX_COUNT

FORMAT = 1
_Name = tuple[str, int, int]


class Contents(NamedTuple):
    """What a file says, and the lines that say nothing, each with its number."""

    sends: list[Send]
    kept: list[Record]
    damaged: list[tuple[int, bytes]]


def header(*, is_cluster: bool) -> bytes:
    return _line({"usage_recorder_spool": FORMAT, "is_cluster": is_cluster})


def header_of(line: bytes) -> tuple[Any, Any] | None:
    """The format and the kind of Redis, or None if it is no header."""
    try:
        said = json.loads(line)
        return said["usage_recorder_spool"], said["is_cluster"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def send_line(send: Send, entry_id: int | None = None, instead_of: Send | None = None) -> bytes:
    said: dict[str, Any] = {
        "s": [
            send.recorder_id,
            send.lane,
            send.number,
            send.family,
            send.records,
            send.writes,
            send.began_ms,
            send.parts,
            send.odometer,
            send.counted,
        ]
    }
    if entry_id is not None:
        said["from"] = entry_id
    if instead_of is not None:
        said["instead_of"] = instead_of.name
    return _line(said)


def settled_line(send: Send) -> bytes:
    return _line({"d": send.name})


def kept_line(entry_id: int, record: Record) -> bytes:
    day = record.at.day.isoformat()
    said = [record.family, record.key, record.at.ms, day, record.counts, record.names, record.records]
    return _line({"k": entry_id, "r": said})


def records_of(line: bytes) -> int:
    """How many records a line of what waits has."""
    return int(json.loads(line)["r"][-1])


def read(lines: Iterable[bytes]) -> Contents:
    """What the lines after the header say together. A damaged one costs what it said alone."""
    sends: dict[_Name, Send] = {}
    kept: dict[int, Record] = {}
    damaged: list[tuple[int, bytes]] = []
    for number, line in enumerate(lines, 2):
        said: Any = None
        try:
            said = json.loads(line)
            if "s" in said:
                send = _send(said["s"])
                sends[send.name] = send
            elif "d" in said:
                sends.pop(_name(said["d"]), None)
            else:
                kept[_number(said["k"])] = _record(said["r"])
        except Exception:  # whatever may be wrong with it
            damaged.append((number, line))
        if isinstance(said, dict):
            # Also of a damaged send: what it was made of is no longer what waits.
            _take_away(kept, said.get("from"))
            _take_away(sends, said.get("instead_of"))
    return Contents(list(sends.values()), list(kept.values()), damaged)


def _take_away(known: dict[Any, Any], name: Any) -> None:
    if isinstance(name, list):
        name = tuple(name)
    try:
        known.pop(name, None)
    except TypeError:
        """It is not the name of anything."""


def _line(said: object) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def _send(said: list[Any]) -> Send:
    recorder_id, lane, number, family, records, writes, began_ms, parts, odometer, counted = said
    _expect(parts)
    return Send(
        *_name([recorder_id, lane, number]),
        _family(family),
        _number(records),
        _number(writes),
        _number(began_ms),
        [_part(*part) for part in parts],
        odometer if odometer is None else _text(odometer),
        tuple((_number(place), _text(name), _number(amount)) for place, name, amount in counted),
        is_inherited=True,
    )


def _part(route: Any, words: Any, places: Any) -> Part:
    for word in words:
        _expect(isinstance(word, str) or _is_integer(word))
    keys_end = 1 + _number(words[0])
    # The lane and the number follow.
    _expect(words[1] == route and len(words) >= keys_end + 2)
    return Part(_text(route), tuple(words), tuple(map(_number, places)))


def _record(said: list[Any]) -> Record:
    family, key, ms, day, counts, names, records = said
    counted = {_text(field): _number(count) for field, count in counts.items()}
    _expect(max(counted.values(), default=0) <= MAX_COUNT)
    at = Moment(_number(ms), date.fromisoformat(day))
    record = Record(_family(family), _text(key), at, counted, tuple(map(_text, names)), _number(records))
    record.commands()  # raises what sending it would raise
    return record


def _name(said: list[Any]) -> _Name:
    recorder_id, lane, number = said
    return _text(recorder_id), _number(lane), _number(number)


def _family(said: Any) -> Family:
    _expect(said in get_args(Family))
    family: Family = said
    return family


def _text(said: Any) -> str:
    _expect(isinstance(said, str))
    return str(said)


def _number(said: Any) -> int:
    _expect(_is_integer(said) and said >= 0)
    return int(said)


def _is_integer(said: Any) -> bool:
    return isinstance(said, int) and not isinstance(said, bool)


def _expect(is_so: object) -> None:
    if not is_so:
        raise ValueError("not as a recorder writes it")

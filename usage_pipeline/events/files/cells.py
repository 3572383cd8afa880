"""Cells of a CSV or Parquet file whose columns are named as members of an event (contracts §8) -> its JSON. Pure; no I/O."""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from usage_pipeline.events.files.rows import is_index
from usage_pipeline.events.formats.absent import NOTHING, present
from usage_pipeline.events.ingest.model import MessageArchive, UsageEvent
from usage_pipeline.values import UNREADABLE_JSON, Malformed

_NUMBERS = ("total_tokens", "input_tokens", "output_tokens", "latency_ms", "status_code")
# Members that hold others. Their parts may have columns of their own, such as `tags.project`.
_OBJECTS = ("usage", "provider_usage", "extra", "tags")
# Texts that are stored as they are, whatever they say.
_VERBATIM = ("prompt", "prompt_full", "response_full")
# Ids, whose columns may have become numbers: as pandas and CSV write these.
_IDS = ("event_id", "user_id", "team", "service", "api_key_id", "source")
_ID_AS_FLOAT = re.compile(r"(-?[0-9]{1,400})\.0")
_NO_ID = re.compile(r"-?inf|-?[0-9](?:\.[0-9]+)?e\+[0-9]{2,3}")
# From here on, a float may stand for another id than the one that was written.
_FIRST_INEXACT = 2**53
_THOUSANDS = re.compile(r"-?[0-9]{1,3}\.[0-9]{3}")
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
# With fewer digits it is one that JSON has.
_SURELY_AN_INTEGER = 19
# What Python writes for a dictionary, as pandas does. Reading a longer one takes too much.
_MOST_LITERAL_CHARACTERS = 16_384
_encode = msgspec.json.Encoder().encode

Convert = Callable[[Any], Any]
# What the columns of each kind of item may be named after.
MEMBERS: dict[str, type[msgspec.Struct]] = {"events": UsageEvent, "archives": MessageArchive}


def unknown_columns(columns: Sequence[str], model: type[msgspec.Struct]) -> list[str]:
    """Columns that are no members, no parts of members, and not the index of a data frame."""
    return [name for name in columns if not is_index(name) and _member_of(name) not in model.__struct_fields__]


def item_of(columns: Sequence[str], has_decimal_comma: bool = False) -> Callable[[Mapping[str, Any]], bytes]:
    """A function that makes the JSON of an item of a row with these columns.

    What cannot be the value of its member stays as it is: the rules of events say what is wrong with it. Raises Malformed for
    an id that became a number and lost digits, and with `has_decimal_comma` for a count such as 1.000.
    """
    plain = [(name, _converter(name)) for name in columns if not is_index(name) and "." not in name]
    parts = [(name, _member_of(name), name.partition(".")[2]) for name in columns if not is_index(name) and "." in name]

    counts = [name for name in columns if name in _NUMBERS or _member_of(name) == "usage"] if has_decimal_comma else []

    def made(row: Mapping[str, Any]) -> bytes:
        for name in counts:
            _expect_one_meaning(name, row.get(name))
        item: dict[str, Any] = {}
        for name, convert in plain:
            value = row.get(name)
            if value is None or (isinstance(value, str) and value in NOTHING and (name not in _VERBATIM or not value)):
                continue
            if (converted := convert(value)) is not None:
                item[name] = converted
        for column, member, part in parts:
            value = row.get(column)
            if value is None or (isinstance(value, str) and value in NOTHING):
                continue
            inner = item.setdefault(member, {})
            if isinstance(inner, dict):
                inner[part] = _part(member, value)
        return _encode(item)

    return made


def _member_of(column: str) -> str:
    member, dot, _ = column.partition(".")
    return member if not dot or member in _OBJECTS else column


def _converter(name: str) -> Convert:
    if name in _NUMBERS or name == "cost_usd":
        return _number
    if name == "tags":
        return _tags
    if name in _OBJECTS:
        return _object
    return partial(id_of, name) if name in _IDS else _text


def _expect_one_meaning(name: str, value: Any) -> None:
    if isinstance(value, str) and _THOUSANDS.fullmatch(value.strip()):
        raise Malformed(
            f"{name}: expected a count without a dot in a file with `;` between its cells, came {value.strip()}, "
            "which is a thousand times as much in some countries"
        )


def _number(value: Any) -> Any:
    """The number as it is written: a float would round it."""
    if not isinstance(value, str):
        return value
    if len(value) < _SURELY_AN_INTEGER and value.isascii() and value.isdecimal():
        return int(value)
    text = value.strip()
    if not _NUMBER.fullmatch(text):
        return value
    # JSON has no zeros in front.
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole = re.match(r"0*(?=[0-9])", digits)
    return msgspec.Raw(f"{sign}{digits[whole.end() if whole else 0 :]}".encode())


def id_of(name: str, value: Any) -> Any:
    """An id as it was before its column became one of floats, which a single gap in it does. Raises Malformed."""
    if isinstance(value, float):
        if value.is_integer() and abs(value) < _FIRST_INEXACT:
            return str(int(value))
    elif not isinstance(value, str):
        return _text(value)
    elif value[-2:] == ".0" and (found := _ID_AS_FLOAT.fullmatch(value)):
        if abs(int(found[1])) < _FIRST_INEXACT:
            return found[1]
    elif not _NO_ID.fullmatch(value):
        return value
    raise Malformed(
        f"{name}: expected an id as it was given, came a number that may have lost digits: {str(value)[:50]}"
    )


def _text(value: Any) -> Any:
    """A column of ids may have become one of numbers."""
    if isinstance(value, str | bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if float(value).is_integer() else str(value)


def _object(value: Any) -> Any:
    if not isinstance(value, str):
        return present(value) if isinstance(value, dict) else value
    text = value.strip()
    try:
        found = msgspec.json.decode(text)
    except UNREADABLE_JSON:
        found = _literal(text)
    return present(found) if isinstance(found, dict) else value


def _literal(text: str) -> Any:
    if not text.startswith("{") or len(text) > _MOST_LITERAL_CHARACTERS:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _tags(value: Any) -> Any:
    found = _object(value)
    return {name: _text(one) for name, one in found.items()} if isinstance(found, dict) else found


def _part(member: str, value: Any) -> Any:
    if member == "tags":
        return _text(value)
    return _number(value) if member in ("usage", "provider_usage") else value

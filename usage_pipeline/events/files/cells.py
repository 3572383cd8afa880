"""Cells of a CSV or Parquet file whose columns are named as members of an event (contracts §8) -> its JSON. Pure; no I/O."""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from usage_pipeline.events.files.rows import is_index
from usage_pipeline.events.formats.absent import NOTHING, present
from usage_pipeline.events.ingest.model import MessageArchive, UsageEvent
from usage_pipeline.values import UNREADABLE_JSON

_NUMBERS = ("total_tokens", "input_tokens", "output_tokens", "latency_ms", "status_code")
# Members that hold others. Their parts may have columns of their own, such as `tags.project`.
_OBJECTS = ("usage", "provider_usage", "extra", "tags")
# Texts that are stored as they are, whatever they say.
_VERBATIM = ("prompt", "prompt_full", "response_full")
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


def item_of(columns: Sequence[str]) -> Callable[[Mapping[str, Any]], bytes]:
    """A function that makes the JSON of an item of a row with these columns.

    What cannot be the value of its member stays as it is: the rules of events say what is wrong with it.
    """
    plain = [(name, _converter(name)) for name in columns if not is_index(name) and "." not in name]
    parts = [(name, _member_of(name), name.partition(".")[2]) for name in columns if not is_index(name) and "." in name]

    def made(row: Mapping[str, Any]) -> bytes:
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
    return _text


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

"""Finds an id in bytes by what it means: JSON may write each character in several ways, and a number without quotes. Pure."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

_SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NUMBER = rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
# A member with a number: the name as it is written, and the number.
_NUMBER_MEMBER = re.compile(rb'"((?:[^"\\]|\\.){1,100})"\s{0,20}:\s{0,20}(%b)' % _NUMBER)
# No member with a number is longer, as far as it is looked for.
_NUMBER_MEMBER_BYTES = 600


class Number(str):
    """A number of a JSON text, as it is written."""

    __slots__ = ()


class Members(list[tuple[str, Any]]):
    """The members of a JSON object in their order. A name may come twice: readers differ in which one they take."""


class Spellings:
    """All ways to write one id."""

    def __init__(self, user_id: str) -> None:
        if not user_id:
            raise ValueError("user_id: expected at least 1 character, came none")
        self.user_id = user_id
        self._number = _canonical_number(user_id)
        written = b"".join(_character(each) for each in user_id)
        wide = [user_id.encode(encoding) for encoding in ("utf-16-le", "utf-16-be")]
        self._quoted = re.compile(b'"' + written + b'"')
        anywhere = b"|".join([written, *map(re.escape, wide)])
        self._word = re.compile(rb"(?<![\w-])(?:%b)(?![\w-])" % anywhere)
        self._owned = re.compile(b'"user_id"' + rb'\s*:\s*"' + written + b'"')
        # The longest text that one of the patterns matches: each UTF-16 unit as \uXXXX, and what stands around it.
        self.longest_bytes = max(6 * len(wide[0]) // 2 + 4, _NUMBER_MEMBER_BYTES)
        # What a server can look for. Text with a backslash, or a number, needs a look of ours.
        plain = {user_id, json.dumps(user_id)[1:-1], json.dumps(user_id, ensure_ascii=False)[1:-1]}
        self.needles = sorted({*(text.encode() for text in plain), *wide})
        self.may_be_number = self._number is not None

    def is_quoted_in(self, text: bytes) -> bool:
        """Whether JSON text has the id as a string, or as a number of a member that is about a user."""
        return self._quoted.search(text) is not None or any(self._numbers_of_users(text))

    def is_in(self, text: bytes) -> bool:
        """Whether any text has the id, and not only as a part of a longer word."""
        return self._word.search(text) is not None or any(self._numbers_of_users(text))

    def owns(self, unreadable: bytes) -> bool:
        """Whether text that is no whole JSON document says that its user is this one."""
        return self._owned.search(unreadable) is not None

    def replaced(self, text: bytes, pseudonym: str) -> bytes | None:
        """The text with the pseudonym in place of each id. None without one."""
        changed, occurrences = self._word.subn(pseudonym.encode(), text)
        return changed if occurrences else None

    def means(self, value: Any) -> bool:
        """Whether a JSON value is the id: the same text, or the same number."""
        if isinstance(value, Number):
            return self._number is not None and _decimal(value) == self._number
        return isinstance(value, str) and value == self.user_id

    def is_named(self, name: str, value: Any) -> bool:
        """Whether the id is in a JSON value or below it. A number counts only where a member is about a user."""
        waiting = [(name, value)]
        while waiting:
            name, value = waiting.pop()
            if isinstance(value, Members):
                waiting.extend(value)
            elif isinstance(value, list):
                waiting.extend((name, each) for each in value)
            elif self.means(value) and (not isinstance(value, Number) or _is_about_user(name)):
                return True
        return False

    def _numbers_of_users(self, text: bytes) -> Iterator[bool]:
        if self._number is None:
            return
        for name, number in _NUMBER_MEMBER.findall(text):
            if _decimal(number.decode()) == self._number:
                try:
                    yield _is_about_user(json.loads(b'"' + name + b'"'))
                except ValueError:
                    yield True


def members_of(raw: bytes) -> Members | None:
    """The members of a JSON object, numbers as they are written. None when it is something else, or cannot be read."""
    try:
        document = json.loads(raw, object_pairs_hook=Members, parse_int=Number, parse_float=Number)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, Members) else None


def _character(character: str) -> bytes:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    escaped = b"".join(
        rb"\\u" + b"".join(_either_case(digit) for digit in units[first : first + 4])
        for first in range(0, len(units), 4)
    )
    ways = [re.escape(character.encode("utf-8", "surrogatepass")), escaped]
    if character in _SHORT:
        # The longer one first: a backslash alone is also a way to write it, outside of JSON.
        ways.insert(0, re.escape(_SHORT[character].encode()))
    return b"(?:" + b"|".join(ways) + b")"


def _either_case(digit: str) -> bytes:
    return f"[{digit}{digit.upper()}]".encode() if digit.isalpha() else digit.encode()


def _canonical_number(text: str) -> Decimal | None:
    """The number that has this text in JSON. `007` is none: nobody who means it would write 7."""
    return _decimal(text) if re.fullmatch(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", text) else None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def _is_about_user(name: str) -> bool:
    return "user" in name.casefold()

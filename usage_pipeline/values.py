"""Rules for single values from outside: ids, counts, times, JSON. A value that breaks its rule raises Malformed. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from usage_recorder import keys as recorder_keys

from usage_pipeline.texts import shortened

MAX_COUNT = recorder_keys.MAX_COUNT
MAX_ID_CHARACTERS = recorder_keys.MAX_ID_CHARACTERS
# What a key may hold beyond the known fields. A drain has them in memory several times, and jsonb refuses strings and arrays of
# 256 MB, and arrays of 16 million numbers (34 MB of text): one such value would fail its whole batch, again and again.
MAX_UNKNOWN_BYTES = 4 * 2**20
# What decoding foreign JSON may raise: bad UTF-8 and deep nesting are not DecodeErrors.
UNREADABLE_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")
_SHOWN_CHARACTERS = 60
_DESCRIBED_CHARACTERS = 200
_REASON_CHARACTERS = 500


class Malformed(Exception):
    """A key or value that cannot be stored; the message says what was expected and what came.

    Whatever came, the message can be stored, logged and answered: it is printable, of one line and at most 500 characters.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(shortened(reason, _REASON_CHARACTERS))


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The times that can be in what was claimed at `claimed_ms`: epoch milliseconds, both ends included.

    `oldest_by` is the setting that says which one is the oldest.
    """

    claimed_ms: int
    oldest_ms: int
    newest_ms: int
    oldest_by: str = "RETENTION_DAYS"

    @classmethod
    def around(cls, claimed_ms: int, retention_days: int, start_ms: int = 0) -> "TimeWindow":
        """From `retention_days` before the claim, but not before `start_ms`, to one day after it (clocks may be ahead).

        A start that is still to come excludes nothing: no time of now is after it.
        """
        day_ms = 86_400_000
        oldest_ms = claimed_ms - retention_days * day_ms
        if oldest_ms < start_ms <= claimed_ms:
            return cls(claimed_ms, start_ms, claimed_ms + day_ms, "USAGE_START_DATE")
        return cls(claimed_ms, oldest_ms, claimed_ms + day_ms)


@dataclass(frozen=True, slots=True)
class PossibleTimes:
    """The one rule for times in Redis: which ones can be, and what becomes of the others.

    A time cannot be if it is no time, is older than RETENTION_DAYS, lies before USAGE_START_DATE (`start_ms`, epoch
    milliseconds: nothing before it is ever rolled up), or is more than a day ahead. The time of the claim takes its place, in
    counters and in request events, so that the counts are not lost with it. The refused time becomes a dead letter.
    """

    retention_days: int = 180
    start_ms: int = 0

    def window(self, claimed_ms: int) -> TimeWindow:
        return TimeWindow.around(claimed_ms, self.retention_days, self.start_ms)


def identifier(name: str, value: bytes) -> str:
    """An opaque id: UTF-8, 1 to 200 characters, no NUL (PostgreSQL's text cannot hold it)."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise Malformed(f"{name}: expected UTF-8, came {shown(value)}") from None
    return identifier_text(name, text)


def identifier_text(name: str, text: str) -> str:
    """The same rule as `identifier`, for decoded text."""
    if not 0 < len(text) <= MAX_ID_CHARACTERS:
        raise Malformed(f"{name}: expected 1 to {MAX_ID_CHARACTERS} characters, came {len(text)}")
    if "\0" in text:
        raise Malformed(f"{name}: expected no NUL character, came one at position {text.index(chr(0))}")
    return text


def count(name: str, value: bytes) -> int:
    """A counter: decimal digits, 0 to 2**63 - 1 (bigint)."""
    if value.isdigit():
        if len(value) < 19:
            return int(value)
        if len(value.lstrip(b"0")) <= 19 and (number := int(value)) <= MAX_COUNT:
            return number
        raise Malformed(f"{name}: expected at most {MAX_COUNT} (bigint), came {shown(value)}")
    if value[:1] == b"-" and value[1:].isdigit():
        raise Malformed(f"{name}: expected a count of 0 or more, came {shown(value)}")
    raise Malformed(f"{name}: expected an integer, came {shown(value)}")


def epoch_ms(name: str, value: bytes, window: TimeWindow) -> datetime:
    """A time in epoch milliseconds within the window."""
    if not value.isdigit() or len(value) > 18:
        raise Malformed(f"{name}: expected epoch milliseconds, came {shown(value)}")
    ms = int(value)
    if not window.oldest_ms <= ms <= window.newest_ms:
        raise _outside(name, shown(value), window)
    return from_ms(ms)


def moment(name: str, at: datetime, window: TimeWindow) -> datetime:
    """A parsed ISO-8601 time within the window; without an offset it is taken as UTC."""
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    try:
        ms = int(aware.timestamp() * 1000)
    except (OverflowError, ValueError):
        raise Malformed(f"{name}: expected a time within the retention, came {at.isoformat()}") from None
    if not window.oldest_ms <= ms <= window.newest_ms:
        raise _outside(name, at.isoformat(), window)
    return aware


def storable_json(members: Mapping[str, object], name: str) -> str:
    """The members as JSON that jsonb accepts: without NUL. (An escaped backslash before `u0000` is only text.)"""
    return without_nul(msgspec.json.encode(members, order="sorted").decode(), name)


def without_nul(text: str, name: str) -> str:
    """The same JSON. Raises Malformed if a text in it has a NUL."""
    if "\\u0000" in text.replace("\\\\", ""):
        raise Malformed(f"{name}: expected no NUL character, came one")
    return text


def from_ms(ms: int) -> datetime:
    """The UTC time of epoch milliseconds, exactly."""
    return _EPOCH + timedelta(milliseconds=ms)


def shown(value: bytes) -> str:
    """A short printable form of raw bytes for a reason text."""
    text = value[: _SHOWN_CHARACTERS + 1].decode(errors="backslashreplace").replace("\0", "\\x00")
    return repr(text) if len(value) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]!r}… ({len(value)} bytes)"


def described(error: Exception) -> str:
    """The text of an error, shortened: some errors repeat the whole value."""
    return shortened(str(error), _DESCRIBED_CHARACTERS)


def within_unknown_limit(what: str, size: int) -> None:
    """Raises Malformed when unknown fields or members are larger than MAX_UNKNOWN_BYTES together."""
    if size > MAX_UNKNOWN_BYTES:
        raise Malformed(f"{what}: expected at most {MAX_UNKNOWN_BYTES} bytes of them, came {size}")


def numbers(name: str, text: str, *, largest: int, most: int) -> tuple[int, ...]:
    """Positive integers from a list with ranges, such as `1-10,42`: ascending, each once, at most `most` of them."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise Malformed(
                f"{name}: expected numbers and ranges such as 1-10,42, came {part.strip()[:_SHOWN_CHARACTERS]!r}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= largest:
            raise Malformed(
                f"{name}: expected numbers from 1 to {largest}, ranges from small to large, came {part.strip()}"
            )
        if last - first >= most or len(found | set(range(first, last + 1))) > most:
            raise Malformed(f"{name}: expected at most {most} numbers, came more")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _outside(name: str, came: str, window: TimeWindow) -> Malformed:
    oldest, newest = from_ms(window.oldest_ms), from_ms(window.newest_ms)
    return Malformed(
        f"{name}: expected a time from {oldest:%Y-%m-%d} ({window.oldest_by}) to {newest:%Y-%m-%d}, came {came}"
    )


def utc_text(at: datetime) -> str:
    """An aware time in UTC as all answers write it: ISO 8601 with a `Z`."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")

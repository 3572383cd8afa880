"""The count and the day of a value in Redis or in a dead letter, as far as it can be read. Pure; no I/O."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from usage_pipeline.merchants.counters import split_key
from usage_pipeline.odometers.lives import MEASURES
from usage_pipeline.values import MAX_COUNT, UNREADABLE_JSON, from_ms

_MOST_DIGITS = 19
# Later ones are later than any claim, and no datetime.
_LATEST_MS = 253_402_300_799_000
_EARLIEST_YEAR = 1970


def of_hash(amount: Any, last_used_ms: Any, *, at: datetime, timezone: ZoneInfo) -> tuple[date, int]:
    """Day and count from the two fields of a hash (None: missing) that is drained at `at`."""
    used = _digits(last_used_ms)
    used_at = from_ms(used) if used is not None and used <= _LATEST_MS else None
    return day_of(used_at, at, timezone), _digits(amount) or 0


def of_token(value: Any, *, at: datetime, timezone: ZoneInfo) -> tuple[date, int]:
    """Day and count of a token's JSON."""
    try:
        members = msgspec.json.decode(value) if isinstance(value, bytes) else None
    except UNREADABLE_JSON:
        members = None
    if not isinstance(members, dict):
        return day_of(None, at, timezone), 0
    count, written = members.get("usageCount"), members.get("lastUsedAt")
    if not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
        count = 0
    return day_of(_moment(written), at, timezone), count


def of_letter(
    family: str, source_key: bytes, raw: Sequence[bytes] | bytes, *, at: datetime, timezone: ZoneInfo
) -> tuple[date, int]:
    """Day and count of a refused value, in the form that batch.raw_value gives; an event counts 1."""
    if family == "event":
        return day_of(None, at, timezone), 1
    if family == "token":
        return of_token(raw, at=at, timezone=timezone)
    if family == "merchant":
        found = split_key(source_key)
        day = found.day if found is not None and found.day is not None else day_of(None, at, timezone)
        return day, _digits(raw) or 0
    fields = dict(zip(raw[::2], raw[1::2], strict=False)) if isinstance(raw, list) else {}
    return of_hash(fields.get(MEASURES[family].encode()), fields.get(b"last_used_at"), at=at, timezone=timezone)


def day_of(used_at: datetime | None, at: datetime, timezone: ZoneInfo) -> date:
    """The day of the earlier of the two, as usage.day_of has it."""
    return min(used_at or at, at).astimezone(timezone).date()


def _digits(value: Any) -> int | None:
    if isinstance(value, bytes) and value.isdigit() and len(value) <= _MOST_DIGITS:
        return int(value)
    return None


def _moment(written: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(written) if isinstance(written, str) else None
        aware = at and (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return aware if aware and aware.year >= _EARLIEST_YEAR else None

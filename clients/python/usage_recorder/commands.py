"""The Redis commands of each record (contracts §1.1–1.6): pure functions for the sync and the async recorder.

If an argument could not be stored later, a function raises WrongArgumentError, and no other error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Literal, Union
from zoneinfo import ZoneInfo

from usage_recorder import keys
from usage_recorder.budget import ALL, SCOPE_KINDS
from usage_recorder.keys import MAX_COUNT, MAX_ID_CHARACTERS
from usage_recorder.quota import LIMITS
from usage_recorder.script import LARGEST_TOKEN_COUNT

Family = Literal["api_key", "provider", "token", "merchant", "event"]
Command = tuple[Union[str, bytes, int], ...]

COUNTER_TTL_SECONDS = 7 * 86_400
ODOMETER_TTL_SECONDS = 35 * 86_400
QUOTA_USED_TTL_SECONDS = 2 * 86_400
WINDOW_MS = 60_000
API_KEY_COUNTS = ("total_requests", "successful_requests", "failed_requests", "total_file_size", "total_files_uploaded")
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
DAY_MS = 86_400_000
# The drain refuses a last_used_at that is more than a day ahead, and the whole key with it. One hour is margin for the clock
# of the drain.
AHEAD_MS = DAY_MS - 3_600_000


class WrongArgumentError(ValueError):
    """An argument of a record cannot be stored. The message names the argument, and never its value."""


@dataclass(frozen=True)
class Moment:
    """The time of a use: epoch milliseconds, and the day of that moment in the time zone of the pipeline."""

    ms: int
    day: date

    @property
    def iso(self) -> str:
        """ISO 8601 in UTC with milliseconds and `Z`, as JavaScript's `toISOString` writes it."""
        whole, ms = divmod(self.ms, 1000)
        return f"{datetime.fromtimestamp(whole, timezone.utc):%Y-%m-%dT%H:%M:%S}.{ms:03}Z"


@dataclass(frozen=True)
class Record:
    """One call of the recorder, or the sum of several that add to the same counter on the same day.

    `counts` are the amounts by the odometer's field, without zeros. `names` are what else the commands need, by family.
    """

    family: Family
    key: str
    at: Moment
    counts: Mapping[str, int]
    names: tuple[str, ...] = ()
    records: int = 1

    @property
    def place(self) -> tuple[str, str, date]:
        """What records must have in common to be summed."""
        return self.family, self.key, self.at.day

    def plus(self, other: Record) -> Record | None:
        """Both in one, with the texts of the later use. None if they cannot be: events, and counts that are too large."""
        if self.family == "event" or self.place != other.place:
            return None
        largest = LARGEST_TOKEN_COUNT if self.family == "token" else MAX_COUNT
        fields = dict.fromkeys((*self.counts, *other.counts))
        counts = {field: self.counts.get(field, 0) + other.counts.get(field, 0) for field in fields}
        if any(count > largest for count in counts.values()):
            return None
        later = other if other.at.ms >= self.at.ms else self
        return Record(self.family, self.key, later.at, counts, later.names, self.records + other.records)

    def commands(self) -> Commands:
        return _COMMANDS[self.family](self)


@dataclass(frozen=True)
class Commands:
    """The commands of a record. The first `writes` of them are the counter; one that fails means that the record is refused.

    The odometer counts `counted` (the place of a write from 1, the field, the amount), each unless its write failed.
    """

    family: Family
    day: date
    commands: Sequence[Command]
    writes: int
    counted: Sequence[tuple[int, str, int]]
    records: int

    def with_odometer(self) -> list[Command]:
        """All commands for one script, which leaves out of the odometer what failed."""
        return [*self.commands, self.odometer(self.counted)]

    def odometer(self, counted: Sequence[tuple[int, str, int]]) -> Command:
        triples = (word for triple in counted for word in triple)
        return ("ODOMETER", keys.recorded(self.family, self.day), ODOMETER_TTL_SECONDS, self.records, *triples)


def moment(at_ms: int | None, *, now_ms: int, zone: ZoneInfo, retention_days: int) -> Moment:
    """The time of a record, by default now: at most `retention_days` ago (less a day of margin), and 23 hours ahead."""
    if at_ms is None:
        at_ms = now_ms
    _integer("at_ms", at_ms)
    if not now_ms - max(retention_days - 1, 0) * DAY_MS <= at_ms <= now_ms + AHEAD_MS:
        raise WrongArgumentError("at_ms must be within the retention, and at most 23 hours ahead")
    return Moment(at_ms, datetime.fromtimestamp(at_ms // 1000, zone).date())


def api_key(
    at: Moment,
    api_key_id: str,
    *,
    success: bool,
    requests: int,
    failed: int | None,
    file_size: int,
    files_uploaded: int,
) -> Record:
    """The record of an API key (§1.1). It also counts the requests of the day, for the quota check."""
    identifier("api_key_id", api_key_id)
    _integer("requests", requests)
    if failed is None:
        failed = 0 if success else requests
    _integer("failed", failed, requests)
    counts = dict(zip(API_KEY_COUNTS, (requests, requests - failed, failed, file_size, files_uploaded)))
    return Record("api_key", keys.api_key_metrics(api_key_id), at, _counts(counts), (api_key_id,))


def provider(at: Moment, api_key_id: str, provider: str, *, user_id: str, uploads: int, file_size: int) -> Record:
    """The record of a provider (§1.2)."""
    identifier("api_key_id", api_key_id)
    identifier("provider", provider)
    identifier("user_id", user_id)
    counts = {"upload_count": uploads, "total_file_size": file_size}
    return Record("provider", keys.provider_metrics(api_key_id, provider), at, _counts(counts), (user_id, provider))


def token(at: Moment, token_id: str, instance_id: str, *, count: int) -> Record:
    """The record of a token (§1.3), with a TTL of 7 days."""
    identifier("token_id", token_id)
    identifier("instance_id", instance_id)
    _integer("count", count, LARGEST_TOKEN_COUNT)
    return Record("token", keys.token_usage(token_id, instance_id), at, _counts({"usage_count": count}), (instance_id,))


def merchant(at: Moment, merchant_id: str, metric_type: str, *, value: int) -> Record:
    """The record of a merchant (§1.4). The metric is the last part of the key, so it cannot contain a colon."""
    identifier("merchant_id", merchant_id)
    identifier("metric_type", metric_type)
    if ":" in metric_type:
        raise WrongArgumentError("metric_type must not contain a colon")
    return Record(
        "merchant", keys.merchant_counter(merchant_id, at.day, metric_type), at, _counts({"metric_value": value})
    )


def event(
    at: Moment,
    event_id: str,
    api_key_id: str,
    *,
    now_ms: int,
    user_id: str,
    provider: str,
    event_type: str,
    file_size: int,
    success: bool,
) -> Record:
    """The record of a request event (§1.5). The timeline keeps the last 60 s before `now_ms`."""
    ids = {"event_id": event_id, "api_key_id": api_key_id, "user_id": user_id, "provider": provider}
    for name, value in {**ids, "event_type": event_type}.items():
        identifier(name, value)
    if not UUID_TEXT.fullmatch(event_id):
        raise WrongArgumentError("event_id must be a UUID such as 123e4567-e89b-12d3-a456-426614174000")
    _integer("file_size", file_size)
    status = "success" if success else "failure"
    document = {**ids, "event_type": event_type, "file_size": file_size, "status": status, "at": at.iso}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    names = (text, event_id, keys.api_key_timeline(api_key_id), str(now_ms - WINDOW_MS))
    return Record("event", keys.EVENT_QUEUE.decode(), at, _counts({"file_size": file_size}), names)


def quota_question(now: Moment, api_key_id: str) -> list[Command]:
    """The commands of `check_quota`. They read both limits, the requests of the day, and the events of the last 60 s."""
    identifier("api_key_id", api_key_id)
    return [
        ("HMGET", keys.quota(api_key_id), *LIMITS),
        ("GET", keys.quota_used(api_key_id, now.day)),
        ("ZCOUNT", keys.api_key_timeline(api_key_id), f"({now.ms - WINDOW_MS}", "+inf"),
    ]


def budget_question(scope: str) -> list[Command]:
    """The commands of a budget check: the answers of the scope, and whether the pipeline lives.

    A name that no budget can have is refused: it would pass for a scope without a budget.
    """
    if scope != ALL:
        kind, separator, value = str(scope).partition("=")
        if not separator or kind not in SCOPE_KINDS:
            raise WrongArgumentError(f"scope must be {ALL}, or a name after one of {', '.join(SCOPE_KINDS)} and a =")
        identifier(kind, value)
    return [("GET", keys.budget(scope)), ("GET", keys.budgets_as_of())]


def pending_question(api_key_id: str) -> list[Command]:
    """The command of `pending`. It reads the five counts of §1.1, in the order of API_KEY_COUNTS."""
    identifier("api_key_id", api_key_id)
    return [("HMGET", keys.api_key_metrics(api_key_id), *API_KEY_COUNTS)]


def identifier(name: str, value: str) -> None:
    """Raises WrongArgumentError unless the value is text that PostgreSQL stores: 1–200 characters, no NUL, valid UTF-8."""
    if not isinstance(value, str):
        raise WrongArgumentError(f"{name} must be a string, came {type(value).__name__}")
    if not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise WrongArgumentError(f"{name} must have 1 to {MAX_ID_CHARACTERS} characters, has {len(value)}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise WrongArgumentError(f"{name} must not contain NUL or lone surrogates")


def _counts(counts: dict[str, int]) -> dict[str, int]:
    """The counts without zeros: those would add nothing, and every field is optional (§1.1)."""
    for field, count in counts.items():
        _integer(field, count)
    return {field: count for field, count in counts.items() if count}


def _hash_writes(record: Record) -> list[Command]:
    increments: list[Command] = [("HINCRBY", record.key, field, count) for field, count in record.counts.items()]
    latest: list[Command] = [
        ("LATER", record.key, "last_used_at", record.at.ms),
        ("EXPIRE", record.key, COUNTER_TTL_SECONDS),
    ]
    return [*increments, *latest]


def _made(record: Record, writes: Sequence[Command], after: Sequence[Command] = ()) -> Commands:
    # Without an amount the odometer counts the record if its first command was done.
    counted = [(place, field, count) for place, (field, count) in enumerate(record.counts.items(), 1)] or [(1, "", 0)]
    return Commands(record.family, record.at.day, [*writes, *after], len(writes), counted, record.records)


def _api_key_commands(record: Record) -> Commands:
    (api_key_id,) = record.names
    used = keys.quota_used(api_key_id, record.at.day)
    return _made(
        record,
        _hash_writes(record),
        [
            ("SADD", keys.touched("api_key"), record.key),
            ("INCRBY", used, record.counts.get("total_requests", 0)),
            ("EXPIRE", used, QUOTA_USED_TTL_SECONDS),
        ],
    )


def _provider_commands(record: Record) -> Commands:
    user_id, provider = record.names
    names: Command = ("HSET", record.key, "user_id", user_id, "provider", provider)
    return _made(record, [*_hash_writes(record), names], [("SADD", keys.touched("provider"), record.key)])


def _token_commands(record: Record) -> Commands:
    (instance_id,) = record.names
    count = record.counts.get("usage_count", 0)
    add: Command = ("TOKEN", record.key, count, record.at.ms, record.at.iso, instance_id, COUNTER_TTL_SECONDS)
    return _made(record, [add], [("SADD", keys.touched("token"), record.key)])


def _merchant_commands(record: Record) -> Commands:
    value = record.counts.get("metric_value", 0)
    return _made(record, [("INCRBY", record.key, value), ("EXPIRE", record.key, COUNTER_TTL_SECONDS)])


def _event_commands(record: Record) -> Commands:
    text, event_id, timeline, older_than = record.names
    return _made(
        record,
        [("RPUSH", record.key, text)],
        [
            ("ZADD", timeline, record.at.ms, event_id),
            ("ZREMRANGEBYSCORE", timeline, "-inf", older_than),
            ("PEXPIRE", timeline, WINDOW_MS),
        ],
    )


_COMMANDS: dict[str, Callable[[Record], Commands]] = {
    "api_key": _api_key_commands,
    "provider": _provider_commands,
    "token": _token_commands,
    "merchant": _merchant_commands,
    "event": _event_commands,
}


def _integer(name: str, value: int, largest: int = MAX_COUNT) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WrongArgumentError(f"{name} must be an integer, came {type(value).__name__}")
    if not 0 <= value <= largest:
        raise WrongArgumentError(f"{name} must be between 0 and {largest}")

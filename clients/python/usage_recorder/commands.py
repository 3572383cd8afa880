"""The Redis commands of each record (contracts §1.1–1.6): pure functions for the sync and the async recorder.

If an argument could not be stored later, a function raises WrongArgumentError, and no other error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Literal, Union
from zoneinfo import ZoneInfo

from usage_recorder import keys
from usage_recorder.keys import MAX_COUNT, MAX_ID_CHARACTERS
from usage_recorder.quota import LIMITS
from usage_recorder.token_script import ADD_TOKEN_USAGE, LARGEST_TOKEN_COUNT

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
class Write:
    """One command that changes a counter. The odometer adds `amount` to `odometer_field`, or nothing if that is None."""

    command: Command
    odometer_field: str | None = None
    amount: int = 0


@dataclass(frozen=True)
class Record:
    """One call of the recorder. Its commands are sent in this order: the counter, its announcement, the odometer."""

    family: Family
    day: date
    writes: Sequence[Write]
    after: Sequence[Command] = ()

    def commands(self) -> list[Command]:
        return [*(write.command for write in self.writes), *self.after, *self._odometer()]

    def take_back(self, refused: Sequence[Write]) -> list[Command]:
        """Commands that take refused writes out of the odometer again: MULTI does not roll back the other commands."""
        counting = [write for write in self.writes if write.odometer_field is not None]
        key = keys.recorded(self.family, self.day)
        undo: list[Command] = [
            ("HINCRBY", key, write.odometer_field, -write.amount)
            for write in refused
            if write.odometer_field is not None and write.amount
        ]
        if all(write in refused for write in counting or self.writes[:1]):
            undo.append(("HINCRBY", key, "records", -1))
        return undo

    def names_life(self, answers: Sequence[object]) -> list[Command]:
        """Commands that name the life of an odometer, if these answers to `commands` say that it began with this record.

        A restored odometer is known by its name. It costs a round trip a family and day, since only a new odometer needs it.
        """
        if answers[-2] != 1:
            return []
        key = keys.recorded(self.family, self.day)
        return [("HSETNX", key, keys.ODOMETER_LIFE, keys.odometer_life(0)), ("EXPIRE", key, ODOMETER_TTL_SECONDS)]

    def _odometer(self) -> list[Command]:
        key = keys.recorded(self.family, self.day)
        counted: list[Command] = [
            ("HINCRBY", key, write.odometer_field, write.amount)
            for write in self.writes
            if write.odometer_field is not None and write.amount
        ]
        return [*counted, ("HINCRBY", key, "records", 1), ("EXPIRE", key, ODOMETER_TTL_SECONDS)]


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
    key = keys.api_key_metrics(api_key_id)
    quota_used = keys.quota_used(api_key_id, at.day)
    quota: list[Command] = [("INCRBY", quota_used, requests), ("EXPIRE", quota_used, QUOTA_USED_TTL_SECONDS)]
    return Record("api_key", at.day, _hash_writes(key, at, counts), [("SADD", keys.touched("api_key"), key), *quota])


def provider(at: Moment, api_key_id: str, provider: str, *, user_id: str, uploads: int, file_size: int) -> Record:
    """The record of a provider (§1.2). Names are written before counts, so a key with counts always says how to split it."""
    identifier("api_key_id", api_key_id)
    identifier("provider", provider)
    identifier("user_id", user_id)
    key = keys.provider_metrics(api_key_id, provider)
    names = Write(("HSET", key, "user_id", user_id, "provider", provider))
    counts = {"upload_count": uploads, "total_file_size": file_size}
    return Record(
        "provider", at.day, [names, *_hash_writes(key, at, counts)], [("SADD", keys.touched("provider"), key)]
    )


def token(at: Moment, token_id: str, instance_id: str, *, count: int) -> Record:
    """The record of a token (§1.3), with a TTL of 7 days."""
    identifier("token_id", token_id)
    identifier("instance_id", instance_id)
    _integer("count", count, LARGEST_TOKEN_COUNT)
    key = keys.token_usage(token_id, instance_id)
    add: Command = ("EVAL", ADD_TOKEN_USAGE, 1, key, count, at.ms, at.iso, instance_id, COUNTER_TTL_SECONDS)
    return Record("token", at.day, [Write(add, "usage_count", count)], [("SADD", keys.touched("token"), key)])


def merchant(at: Moment, merchant_id: str, metric_type: str, *, value: int) -> Record:
    """The record of a merchant (§1.4). The metric is the last part of the key, so it cannot contain a colon."""
    identifier("merchant_id", merchant_id)
    identifier("metric_type", metric_type)
    if ":" in metric_type:
        raise WrongArgumentError("metric_type must not contain a colon")
    _integer("value", value)
    key = keys.merchant_counter(merchant_id, at.day, metric_type)
    return Record(
        "merchant",
        at.day,
        [Write(("INCRBY", key, value), "metric_value", value), Write(("EXPIRE", key, COUNTER_TTL_SECONDS))],
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
    timeline = keys.api_key_timeline(api_key_id)
    return Record(
        "event",
        at.day,
        [
            Write(
                ("RPUSH", keys.EVENT_QUEUE, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()),
                "file_size",
                file_size,
            )
        ],
        [
            ("ZADD", timeline, at.ms, event_id),
            ("ZREMRANGEBYSCORE", timeline, "-inf", now_ms - WINDOW_MS),
            ("PEXPIRE", timeline, WINDOW_MS),
        ],
    )


def quota_question(now: Moment, api_key_id: str) -> list[Command]:
    """The commands of `check_quota`. They read both limits, the requests of the day, and the events of the last 60 s."""
    identifier("api_key_id", api_key_id)
    return [
        ("HMGET", keys.quota(api_key_id), *LIMITS),
        ("GET", keys.quota_used(api_key_id, now.day)),
        ("ZCOUNT", keys.api_key_timeline(api_key_id), f"({now.ms - WINDOW_MS}", "+inf"),
    ]


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


def _hash_writes(key: str, at: Moment, counts: dict[str, int]) -> list[Write]:
    """The writes to a hash. A count of zero is left out: it would add nothing, and every field is optional (§1.1)."""
    for field, count in counts.items():
        _integer(field, count)
    increments = [Write(("HINCRBY", key, field, count), field, count) for field, count in counts.items() if count]
    return [
        *increments,
        Write(("HSET", key, "last_used_at", at.ms)),
        Write(("EXPIRE", key, COUNTER_TTL_SECONDS)),
    ]


def _integer(name: str, value: int, largest: int = MAX_COUNT) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WrongArgumentError(f"{name} must be an integer, came {type(value).__name__}")
    if not 0 <= value <= largest:
        raise WrongArgumentError(f"{name} must be between 0 and {largest}")

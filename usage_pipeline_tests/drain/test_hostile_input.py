"""Hostile input through a real drain: every kind of malformed key and value, huge ones, and totals that overflow.

Each table holds what is written and the reason of its dead letter. What a single value becomes is in test_values.py and
test_families.py.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from threading import Barrier
from typing import Any

import psycopg
import pytest
import redis

from usage_pipeline import values
from usage_pipeline.drain import batch, dead_letters
from usage_pipeline.drain.batch import WrongType, raw_value
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.values import PossibleTimes
from usage_pipeline_tests.drain.rig import (
    BY_NAME,
    TOTALS,
    Crash,
    Life,
    Writer,
    assert_at_rest,
    crash_at,
    event_item,
    lives,
    stored,
)

BIGINT = 2**63 - 1
MB = 10**6
DAY = date(2025, 3, 14)
NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
FAR_MS = NOW_MS + 3 * 86_400_000

NO_INTEGER = "expected an integer, came "
TOO_LARGE = "expected at most 9223372036854775807 (bigint), came "
# What a broken writer may put where a count belongs.
COUNTS: list[tuple[object, str]] = [
    ("1.5", f"{NO_INTEGER}'1.5'"),
    ("1.0", f"{NO_INTEGER}'1.0'"),
    ("1e3", f"{NO_INTEGER}'1e3'"),
    ("", f"{NO_INTEGER}''"),
    (" 1", f"{NO_INTEGER}' 1'"),
    ("1\n", rf"{NO_INTEGER}'1\n'"),
    ("+1", f"{NO_INTEGER}'+1'"),
    ("--1", f"{NO_INTEGER}'--1'"),
    ("0x10", f"{NO_INTEGER}'0x10'"),
    ("1_000", f"{NO_INTEGER}'1_000'"),
    ("NaN", f"{NO_INTEGER}'NaN'"),
    ("null", f"{NO_INTEGER}'null'"),
    ("٣", f"{NO_INTEGER}'٣'"),
    (b"1\0", rf"{NO_INTEGER}'1\\x00'"),
    (b"\xff", rf"{NO_INTEGER}'\\xff'"),
    ("x" * 5_000, f"{NO_INTEGER}'{'x' * 60}'… (5000 bytes)"),
    ("-1", "expected a count of 0 or more, came '-1'"),
    (-BIGINT - 1, "expected a count of 0 or more, came '-9223372036854775808'"),
    (BIGINT + 1, f"{TOO_LARGE}'9223372036854775808'"),
    ("9" * 5_000, f"{TOO_LARGE}'{'9' * 60}'… (5000 bytes)"),
]
NO_MS = "last_used_at: expected epoch milliseconds, came "
OUTSIDE = "last_used_at: expected a time from "
TIMES: list[tuple[object, str]] = [
    ("0", OUTSIDE),
    (NOW_MS // 1000, OUTSIDE),
    (NOW_MS * 1000, OUTSIDE),
    (FAR_MS, OUTSIDE),
    ("9" * 18, OUTSIDE),
    ("9" * 19, NO_MS),
    (-NOW_MS, NO_MS),
    (f"{NOW_MS}.5", NO_MS),
    ("2025-01-01T00:00:00Z", NO_MS),
    ("", NO_MS),
]
# The id in the key, and the rest of the reason.
IDS: list[tuple[bytes, str]] = [
    (b"", "expected 1 to 200 characters, came 0"),
    (b"x" * 201, "expected 1 to 200 characters, came 201"),
    ("é".encode() * 201, "expected 1 to 200 characters, came 201"),
    (b"x" * 3_000, "expected 1 to 200 characters, came 3000"),
    (b"a\0b", "expected no NUL character, came one at position 1"),
    (b"\xff\xfe", r"expected UTF-8, came '\\xff\\xfe'"),
    (b"\xed\xa0\x80", "expected UTF-8, came "),
]
UNKNOWN_FIELDS: list[tuple[bytes, bytes, str]] = [
    (b"\xff", b"x", r"unknown field: expected UTF-8, came '\\xff'"),
    (b"x", b"\xff", "unknown field: expected UTF-8, came 'x'"),
    (b"x\0", b"x", "unknown field: expected no NUL character, came one"),
    (b"x", b"\0", "unknown field: expected no NUL character, came one"),
    (b"x", b"y" * (values.MAX_UNKNOWN_BYTES), "unknown fields: expected at most 4194304 bytes of them, came 4194305"),
]

Case = tuple[bytes, Any, str]


def api_key_cases() -> Iterator[Case]:
    """Key, hash, reason."""
    fields = ("total_requests", "successful_requests", "failed_requests", "total_file_size", "total_files_uploaded")
    for field in fields:
        for number, (value, reason) in enumerate(COUNTS):
            yield f"apikey:{field}-{number}:metrics".encode(), {field: value}, f"{field}: {reason}"
    for number, (value, reason) in enumerate(TIMES):
        yield f"apikey:time-{number}:metrics".encode(), {"total_requests": 1, "last_used_at": value}, reason
    for name, reason in IDS:
        yield b"apikey:%s:metrics" % name, {"total_requests": 1}, f"api_key_id: {reason}"
    for number, (name, value, reason) in enumerate(UNKNOWN_FIELDS):
        yield b"apikey:unknown-%d:metrics" % number, {"total_requests": 1, name: value}, reason


def provider_cases() -> Iterator[Case]:
    """Key, hash, reason."""
    for field in ("upload_count", "total_file_size"):
        for number, (value, reason) in enumerate(COUNTS):
            yield f"provider:{field}-{number}:s3:metrics".encode(), {field: value}, f"{field}: {reason}"
    for number, (value, reason) in enumerate(TIMES):
        yield f"provider:time-{number}:s3:metrics".encode(), {"upload_count": 1, "last_used_at": value}, reason
    for number, (name, reason) in enumerate(IDS):
        yield b"provider:%s:s3:metrics" % name, {"upload_count": 1, "provider": "s3"}, f"api_key_id: {reason}"
        yield b"provider:user-%d:s3:metrics" % number, {"upload_count": 1, "user_id": name}, f"user_id: {reason}"
        if name:
            yield b"provider:k:%s:metrics" % name, {"upload_count": 1, "provider": name}, f"provider: {reason}"
    yield b"provider:k::metrics", {"upload_count": 1}, "provider: expected 1 to 200 characters, came 0"
    for number, (name, value, reason) in enumerate(UNKNOWN_FIELDS):
        yield b"provider:unknown-%d:s3:metrics" % number, {"upload_count": 1, name: value}, reason
    split = "provider: expected the end of the key's "
    for number, (name, came) in enumerate(
        [("gcs", "'gcs'"), ("3", "'3'"), (":s3", "':s3'"), ("", "''"), ("s3:", "'s3:'")]
    ):
        key = f"provider:split-{number}:s3:metrics".encode()
        yield key, {"upload_count": 1, "provider": name}, f"{split}'split-{number}:s3', came {came}"
    yield (
        b"provider:whole:s3:metrics",
        {"upload_count": 1, "provider": "whole:s3"},
        f"{split}'whole:s3', came 'whole:s3'",
    )
    expected = "key: expected provider:<api_key_id>:<provider>:metrics, came no provider in "
    yield b"provider:lonely:metrics", {"upload_count": 1}, f"{expected}'lonely'"
    yield b"provider::metrics", {"upload_count": 1}, f"{expected}''"


NO_TOKEN = "value: expected {usageCount, lastUsedAt, instanceId} as JSON, came "
# From 3.14 on, Python limits the depth of recursion by the room on the stack, so the decoder passes over more levels.
NO_COUNT = "usageCount: expected an integer, came "
NO_ISO = "lastUsedAt: expected an ISO-8601 time, came "
NO_MEMBERS = "value: expected JSON members that can be stored, came "
TOKENS: list[tuple[bytes, str]] = [
    (b"", f"{NO_TOKEN}'': Input data was truncated"),
    (b"{", f"{NO_TOKEN}'{{': Input data was truncated"),
    (b"\xff", rf"{NO_TOKEN}'\\xff': JSON is malformed"),
    (b'\xef\xbb\xbf{"usageCount":1}', NO_TOKEN),
    (b'{"usageCount":1}x', NO_TOKEN),
    (b'{"usageCount":1,}', NO_TOKEN),
    (b"{'usageCount':1}", NO_TOKEN),
    (b"null", f"{NO_TOKEN}'null': Expected `object`, got `null`"),
    (b"5", f"{NO_TOKEN}'5': Expected `object`, got `int`"),
    (b"[1]", f"{NO_TOKEN}'[1]': Expected `object`, got `array`"),
    (b"{}", f"{NO_TOKEN}'{{}}': Object missing required field `usageCount`"),
    (b'{"UsageCount":1}', NO_TOKEN),
    (b'{"usageCount":null}', "usageCount: expected an integer, came "),
    (b'{"usageCount":"1"}', "usageCount: expected an integer, came "),
    (b'{"usageCount":1.5}', "usageCount: expected an integer, came "),
    (b'{"usageCount":1e3}', "usageCount: expected an integer, came "),
    (b'{"usageCount":1e400}', "usageCount: expected an integer, came "),
    (b'{"usageCount":01}', NO_TOKEN),
    (b'{"usageCount":NaN}', NO_TOKEN),
    (b'{"usageCount":true}', "usageCount: expected an integer, came "),
    (b'{"usageCount":-1}', "usageCount: expected 0 to 9223372036854775807 (bigint), came -1"),
    (b'{"usageCount":9223372036854775808}', "usageCount: expected 0 to 9223372036854775807 (bigint), came 92233"),
    (b'{"usageCount":%s}' % (b"9" * 5_000), "usageCount: expected an integer, came "),
    (b'{"usageCount":%s}' % (b"[" * 100_000 + b"]" * 100_000), NO_TOKEN if sys.version_info < (3, 14) else NO_COUNT),
    (b'{"usageCount":1,"lastUsedAt":%d}' % NOW_MS, NO_ISO),
    (b'{"usageCount":1,"lastUsedAt":"soon"}', NO_ISO),
    (b'{"usageCount":1,"lastUsedAt":"2025-01-01"}', NO_ISO),
    (b'{"usageCount":1,"lastUsedAt":"2025-02-30T00:00:00Z"}', NO_ISO),
    (b'{"usageCount":1,"lastUsedAt":"1970-01-01T00:00:00Z"}', "lastUsedAt: expected a time from "),
    (b'{"usageCount":1,"lastUsedAt":"9999-12-31T23:59:59-23:59"}', "lastUsedAt: expected a time "),
    (b'{"usageCount":1,"lastUsedAt":"0001-01-01T00:00:00+23:59"}', "lastUsedAt: expected a time "),
    (b'{"usageCount":1,"instanceId":5}', NO_TOKEN),
    (b'{"usageCount":1,"instanceId":"j"}', "instanceId: expected the end of the key's "),
    (b'{"usageCount":1,"instanceId":""}', "instanceId: expected the end of the key's "),
    (rb'{"usageCount":1,"instanceId":"\ud800"}', NO_TOKEN),
    (b'{"usageCount":1,"instanceId":"\xff"}', NO_TOKEN),
    (b'{"usageCount":1,"x":"\xff"}', NO_MEMBERS),
    (b'{"usageCount":1,"\xff":1}', NO_TOKEN),
    (rb'{"usageCount":1,"x":"\ud800"}', NO_TOKEN),
    (b'{"usageCount":1,"x":1e400000}', NO_MEMBERS),
    (b'{"usageCount":1,"x":%s}' % (b"9" * 5_000), NO_MEMBERS),
    (rb'{"usageCount":1,"x":"\u0000"}', "JSON member: expected no NUL character, came one"),
    (rb'{"usageCount":1,"\u0000":1}', "JSON member: expected no NUL character, came one"),
    (rb'{"usageCount":1,"x":[{"y":"\u0000"}]}', "JSON member: expected no NUL character, came one"),
    # PostgreSQL's jsonb takes no array of so many numbers.
    (
        b'{"usageCount":1,"x":[%s1]}' % (b"1," * 12 * MB),
        "unknown members: expected at most 4194304 bytes of them, came ",
    ),
]


def token_cases() -> Iterator[Case]:
    """Key, string, reason."""
    for number, (value, reason) in enumerate(TOKENS):
        yield f"token_usage:value-{number}:i".encode(), value, reason
    for name, reason in IDS:
        yield b"token_usage:%s:i" % name, b'{"usageCount":1}', f"token_id: {reason}"
        if name and b"\0" not in name:
            named = json.dumps({"usageCount": 1, "instanceId": name.decode(errors="replace")}).encode()
            told = "instanceId: expected the end" if "UTF-8" in reason else f"instance_id: {reason}"
            yield b"token_usage:t:" + name, named, told
    yield b"token_usage:t:", b'{"usageCount":1}', "instance_id: expected 1 to 200 characters, came 0"
    yield b"token_usage:", b'{"usageCount":1}', "key: expected token_usage:<token_id>:<instance_id>, came ''"
    yield b"token_usage:t", b'{"usageCount":1}', "key: expected token_usage:<token_id>:<instance_id>, came 't'"


CASES = {"api_key": api_key_cases, "provider": provider_cases, "token": token_cases}


# With these a reason begins that is about what a key is, or whose it is: nothing of it can count.
OF_WHOLE_KEYS = ("api_key_id:", "provider:", "token_id:", "instance_id:", "instanceId:", "key:", "value: expected {")


def letters(postgres: psycopg.Connection) -> list[tuple[bytes, str, object]]:
    """Key, reason and value of all dead letters, in the order of their numbers."""
    return [
        (letter.source_key, letter.reason, raw_value(letter.raw, letter.raw_format))
        for letter in dead_letters.list_dead_letters(postgres, limit=10_000)
    ]


def replay(settings: Settings, **options: Any) -> list[dead_letters.ReplayResult]:
    with closing(connect(settings)) as connection:
        store = UsageStore(connection, usage_timezone="UTC", drained_by="test")
        return list(
            dead_letters.replay(connection, store, dead_letters.Choice(**options), times=settings.possible_times)
        )


def starts(expected: dict[Any, str], came: dict[Any, str]) -> dict[Any, str]:
    """The reasons that came, cut to the length of those expected, so that a comparison shows each difference."""
    return {key: reason[: len(expected.get(key, reason))] for key, reason in came.items()}


@pytest.mark.parametrize("family", CASES)
def test_whatever_is_malformed_becomes_a_dead_letter_with_its_reason_and_the_rest_goes_on(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    cases = list(CASES[family]())
    written: dict[bytes, object] = {}
    for key, value, _ in cases:
        if isinstance(value, bytes):
            redis_client.set(key, value)
            written[key] = value
        else:
            redis_client.hset(key, mapping=value)
            written[key] = [part for pair in redis_client.hgetall(key).items() for part in pair]
    assert len(written) == len(cases), "two cases share a key"
    writer = Writer(redis_client)
    writer.write(family, [f"good-{number}" for number in range(20)], 3)

    report = drain_once(settings)

    assert (report.keys, report.dead_letters) == (len(cases) + 20, len(cases))
    came = dead_letters.list_dead_letters(postgres, limit=10_000)
    expected = {key: reason for key, _, reason in cases}
    assert starts(expected, {letter.source_key: letter.reason for letter in came}) == expected
    assert max(len(letter.reason) for letter in came) < 600
    whole = {key for key, reason in expected.items() if reason.startswith(OF_WHOLE_KEYS)}
    assert {letter.source_key for letter in came if letter.member is None} == whole
    for letter in came:
        value = raw_value(letter.raw, letter.raw_format)
        assert (
            value == written[letter.source_key]
            if letter.member is None
            else is_part_of(value, written[letter.source_key])
        )
    totals = stored(postgres, family)
    assert {name: fields for name, fields in totals.items() if name.startswith("good-")} == writer.written
    counted = {"api_key": "total_requests", "provider": "upload_count", "token": "usage_count"}[family]
    of_cases = [fields[counted] for name, fields in totals.items() if not name.startswith("good-")]
    # Each case writes 1 where its fault is not in the count itself.
    refused = sum(letter.member in ("total_requests", "upload_count", "usageCount") for letter in came)
    ones = [value for key, value in written.items() if key not in whole and is_one(value)]
    assert (len(of_cases), sum(of_cases)) == (len(cases) - len(whole), len(ones))
    assert len(ones) <= len(cases) - len(whole) - refused
    [counts] = postgres.execute(
        "select sum(keys), sum(stored_rows), sum(dead_letters), sum(refused_members) from ops.sync_batches"
    ).fetchall()
    assert counts == (len(cases) + 20, len(cases) + 20 - len(whole), len(cases), len(cases) - len(whole))
    assert drain_once(settings).keys == 0
    assert {result.is_counted for result in replay(settings)} == {False}, "refused again, by the same rules"
    assert stored(postgres, family) == totals
    assert_at_rest(redis_client, postgres, family)


def is_part_of(value: object, written: object) -> bool:
    """Whether a dead letter of a member holds members of what was written, as they were."""
    if isinstance(value, list) and isinstance(written, list):
        pairs = set(zip(value[::2], value[1::2], strict=True))
        return bool(pairs) and pairs <= set(zip(written[::2], written[1::2], strict=True))
    assert isinstance(value, bytes)
    assert isinstance(written, bytes)
    # Its `usageCount` is 0, or the one that is refused. Numbers and texts are written as they came.
    rest = value.removeprefix(b'{"usageCount":0,').removesuffix(b"}")
    return len(rest) > 3 and rest.strip(b"{}") in written


def is_one(value: object) -> bool:
    """Whether what was written counts 1 in the first place."""
    if isinstance(value, bytes):
        return value.startswith(b'{"usageCount":1,')
    assert isinstance(value, list)
    return not {(b"total_requests", b"1"), (b"upload_count", b"1")}.isdisjoint(
        zip(value[::2], value[1::2], strict=True)
    )


NO_EVENT = "item: expected a request event as JSON, came "
AT = "at: expected an ISO-8601 time, came "
# Reasons that begin so are about a part without which the event is stored.
OF_MEMBERS = ("at:", "JSON member:", "unknown members:", "value: expected JSON members")
EVENT_MEMBERS = ("event_id", "api_key_id", "user_id", "provider", "event_type", "file_size", "status", "at")
EVENTS: list[tuple[bytes, str]] = [
    (b"", f"{NO_EVENT}'': Input data was truncated"),
    (b"\xff", rf"{NO_EVENT}'\\xff': JSON is malformed"),
    (b"null", f"{NO_EVENT}'null': Expected `object`, got `null`"),
    (b"[]", f"{NO_EVENT}'[]': Expected `object`, got `array`"),
    (b"{}", f"{NO_EVENT}'{{}}': Object missing required field `event_id`"),
    (event_item()[:-1], NO_EVENT),
    (event_item() + b"x", NO_EVENT),
    *((event_item(**{member: None}), AT if member == "at" else NO_EVENT) for member in EVENT_MEMBERS),
    *(
        (json.dumps({k: v for k, v in json.loads(event_item()).items() if k != member}).encode(), NO_EVENT)
        for member in EVENT_MEMBERS
    ),
    *((event_item(**{member: []}), AT if member == "at" else NO_EVENT) for member in EVENT_MEMBERS),
    (event_item(event_id="1"), NO_EVENT),
    (event_item(event_id=""), NO_EVENT),
    (event_item(event_id="g23e4567-e89b-12d3-a456-426614174000"), NO_EVENT),
    (event_item(status="maybe"), NO_EVENT),
    (event_item(status="\0"), NO_EVENT),
    # Its complaint repeats the whole value.
    (event_item(status="x" * 100_000), NO_EVENT),
    (event_item(file_size="9"), NO_EVENT),
    (event_item(file_size=1.5), NO_EVENT),
    (event_item(file_size=True), NO_EVENT),
    (event_item(file_size=-1), "file_size: expected 0 to 9223372036854775807 (bigint), came -1"),
    (
        event_item(file_size=BIGINT + 1),
        "file_size: expected 0 to 9223372036854775807 (bigint), came 9223372036854775808",
    ),
    (event_item(file_size=10**30), "file_size: expected 0 to 9223372036854775807 (bigint), came 1000000000"),
    (event_item(at=NOW_MS), AT),
    (event_item(at="yesterday"), AT),
    (event_item(at="1970-01-01T00:00:00Z"), "at: expected a time from "),
    (event_item(at="9999-12-31T23:59:59-23:59"), "at: expected a time "),
    *(
        (event_item(**{member: text}), f"{member}: {reason}")
        for member in ("api_key_id", "user_id", "provider", "event_type")
        for text, reason in (
            ("", "expected 1 to 200 characters, came 0"),
            ("x" * 201, "expected 1 to 200 characters, came 201"),
            ("a\0b", "expected no NUL character, came one at position 1"),
        )
    ),
    (event_item(user_id="\ud800"), NO_EVENT),
    (event_item(user_id="Y").replace(b"Y", b"\xff"), NO_EVENT),
    (event_item(x="\ud800"), NO_EVENT),
    (event_item(x="\0"), "JSON member: expected no NUL character, came one"),
    (event_item(x="Y").replace(b"Y", b"\xff"), NO_MEMBERS),
    (event_item(x=0).replace(b'"x": 0', b'"x": 1e400000'), NO_MEMBERS),
    (event_item(x=0).replace(b'"x": 0', b'"x": %s' % (b"[" * 100_000 + b"]" * 100_000)), ""),
    (event_item(x="y" * 17 * MB), "unknown members: expected at most 4194304 bytes of them, came 17000002"),
]


def test_whatever_is_malformed_in_the_queue_becomes_a_dead_letter_with_its_position_and_reason(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_pipeline.drain.event_queue.PAGE_ITEMS", 7)
    for number, (item, _) in enumerate(EVENTS):
        redis_client.rpush("event_queue", item, event_item(api_key_id="good", file_size=number))

    report = drain_once(settings)

    assert (report.keys, report.dead_letters) == (2 * len(EVENTS), len(EVENTS))
    came = dead_letters.list_dead_letters(postgres)
    expected = {2 * number: reason for number, (_, reason) in enumerate(EVENTS)}
    assert starts(expected, {letter.position or 0: letter.reason for letter in came}) == expected
    for letter in came:
        item, reason = EVENTS[(letter.position or 0) // 2]
        # Which reason a decoder gives for a very deep array is its own matter; so is whether it takes the rest.
        assert not reason or (letter.member is None) == (not reason.startswith(OF_MEMBERS)), reason
        assert letter.raw == item if letter.member is None else len(letter.raw) < len(item)
    assert {(letter.family, letter.source_key, letter.raw_format) for letter in came} == {
        ("event", b"event_queue", "string")
    }
    assert max(len(letter.reason) for letter in came) < 600
    by_key = "select file_size from raw.request_events where (api_key_id = 'good') = %s order by 1"
    assert postgres.execute(by_key, (True,)).fetchall() == [(number,) for number in range(len(EVENTS))]
    stored_in_part = sum(letter.member is not None for letter in came)
    assert postgres.execute(by_key, (False,)).fetchall() == [(10,)] * stored_in_part
    assert {result.is_counted for result in replay(settings)} == {False}
    assert_at_rest(redis_client, postgres, "event")


LONG_NAME = Random(7).randbytes(1_900).hex().encode()
MERCHANTS: list[Case] = [
    # Of a value, the first 4,096 bytes are read.
    *(
        (
            b"usage:value-%d:2025-03-14:x" % number,
            value,
            f"value: {reason}".replace("(5000 bytes)", "(4096 bytes) at least"),
        )
        for number, (value, reason) in enumerate(COUNTS)
    ),
    *((b"usage:%s:2025-03-14:x" % name, 1, f"merchant_id: {reason}") for name, reason in IDS),
    *((b"usage:m:2025-03-14:%s" % name, 1, f"metric_type: {reason}") for name, reason in IDS),
    *(
        (b"usage:m:%s:x" % day, 1, "date: expected a day as YYYY-MM-DD, came ")
        for day in (b"", b"2025-02-30", b"20250314", b"2025-3-14", b"2025-03-14T00", b"2025-03-14\n", b"\xff", b"a\0b")
    ),
    # Names that would not fit into a row of an index.
    (b"usage:%s:2025-03-14:x" % LONG_NAME, 1, "merchant_id: expected 1 to 200 characters, came 3800"),
    (b"usage:%sy:2025-03-14:x" % LONG_NAME, 1, "merchant_id: expected 1 to 200 characters, came 3801"),
    (b"usage:m:2025-03-14:%s" % LONG_NAME, 1, "metric_type: expected 1 to 200 characters, came 3800"),
    (b"usage:m:%s:x" % LONG_NAME, 1, f"date: expected a day as YYYY-MM-DD, came '{LONG_NAME[:60].decode()}'"),
]


def test_whatever_is_malformed_among_merchant_counters_becomes_one_dead_letter_and_goes_when_mended(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for key, value, _ in MERCHANTS:
        redis_client.set(key, value)
    for number in range(20):
        redis_client.set(f"usage:good-{number}:2025-03-14:x", number)

    for _ in range(2):
        report = aggregate(settings, [DAY])
        came = letters(postgres)
        expected = {key: reason for key, _, reason in MERCHANTS}
        assert starts(expected, {key: reason for key, reason, _ in came}) == expected
        assert len(came) == len(MERCHANTS), "a key has two dead letters"
        assert {key: value for key, _, value in came} == {
            key: redis_client.get(key)[:4_096]  # type: ignore[index]
            for key, _, _ in MERCHANTS
        }
        assert report.records_aggregated == 20
    rows = postgres.execute("select metric_value from usage.merchant_usage order by 1").fetchall()
    assert rows == [(number,) for number in range(20)]
    redis_client.set("usage:value-0:2025-03-14:x", 7)
    aggregate(settings, [DAY])
    assert b"usage:value-0:2025-03-14:x" not in {key for key, _, _ in letters(postgres)}


# wrong Redis types

TYPES: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "x"),
    "list": lambda client, key: client.rpush(key, "x"),
    "set": lambda client, key: client.sadd(key, "x"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "stream": lambda client, key: client.xadd(key, {"x": 1}),
    "hash": lambda client, key: client.hset(key, "x", "1"),
}


@pytest.mark.parametrize("family", ["api_key", "provider", "token"])
def test_a_key_of_another_type_is_kept_as_a_dump_that_can_be_restored(
    family: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    name = {"api_key": "apikey:{}:metrics", "provider": "provider:{}:s3:metrics", "token": "token_usage:{}:i"}[family]
    right = BY_NAME[family].redis_type.decode()
    wrong = {name.format(kind): kind for kind in TYPES if kind != right}
    for key, kind in wrong.items():
        TYPES[kind](redis_client, key)
    dumps = {key: redis_client.dump(key) for key in wrong}
    writer = Writer(redis_client)
    writer.write(family, ["good"])

    assert drain_once(settings).dead_letters == len(wrong)

    came = letters(postgres)
    assert {key.decode(): reason for key, reason, _ in came} == {
        key: f"key: expected a Redis {right}, came a {kind}" for key, kind in wrong.items()
    }
    for key, _, value in came:
        assert isinstance(value, WrongType)
        redis_client.restore(key, 0, value.dump)
        assert redis_client.dump(key) == dumps[key.decode()]
        redis_client.delete(key)
    assert stored(postgres, family) == writer.written
    assert_at_rest(redis_client, postgres, family)


def test_a_queue_of_another_type_is_kept_as_a_dump_that_can_be_restored(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    expected = []
    for kind in TYPES.keys() - {"list"}:
        TYPES[kind](redis_client, "event_queue")
        expected.append(
            (b"event_queue", f"key: expected a Redis list, came a {kind}", redis_client.dump("event_queue"))
        )
        assert drain_once(settings).dead_letters == 1
    came = [(key, reason, value.dump) for key, reason, value in letters(postgres) if isinstance(value, WrongType)]
    assert came == expected
    redis_client.restore("event_queue", 0, expected[0][2])
    redis_client.delete("event_queue")
    redis_client.rpush("event_queue", event_item(file_size=1))
    assert drain_once(settings).dead_letters == 0
    assert_at_rest(redis_client, postgres, "event")


def test_a_merchant_counter_of_another_type_is_kept_as_a_dump(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    wrong = {f"usage:{kind}:2025-03-14:x": kind for kind in TYPES if kind != "string"}
    for key, kind in wrong.items():
        TYPES[kind](redis_client, key)
    redis_client.set("usage:good:2025-03-14:x", 1)
    assert aggregate(settings, [DAY]).records_aggregated == 1
    came = {key.decode(): (reason, value) for key, reason, value in letters(postgres)}
    for key, kind in wrong.items():
        reason, value = came[key]
        assert reason.startswith(f"key: expected a Redis string, came a {kind}")
        # An empty stream takes more than the 4 KB of which a dump is kept.
        kept = b"" if "its content is not kept here" in reason else redis_client.dump(key)
        assert (value, kept == b"") == (WrongType("key of another type", kept), kind == "stream")


# size

_DRAIN_ALONE = """
import json, sys
from datetime import date
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.settings import load_settings

settings = load_settings(database_url=sys.argv[1], redis_url=sys.argv[2])
report = drain_once(settings)
merchants = aggregate(settings, [date(2025, 3, 14)])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([report.keys, report.dead_letters, merchants.records_aggregated, int(status["VmHWM"].split()[0]) // 1000]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory of a process is read from /proc")
def test_values_of_25_mb_are_kept_whole_in_bounded_memory_and_the_rest_goes_in(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    large = b"x" * 25 * MB
    raw: dict[bytes, Any] = {
        b"token_usage:valid:i": b'{"usageCount":1,"x":"' + large + b'"}',
        b"token_usage:malformed:i": large,
        b"event_queue": large,
    }
    for key in (b"apikey:large:metrics", b"apikey:count:metrics"):
        redis_client.hset(
            key, mapping={"total_requests": 1, "note": large} if b"large" in key else {"total_requests": large}
        )
        raw[key] = [part for pair in redis_client.hgetall(key).items() for part in pair]
    for key in (b"token_usage:valid:i", b"token_usage:malformed:i"):
        redis_client.set(key, raw[key])
    redis_client.rpush("event_queue", event_item(), large, event_item())
    # Random, since a DUMP of a list is compressed.
    redis_client.rpush("provider:list:s3:metrics", Random(1).randbytes(25 * MB))
    raw[b"provider:list:s3:metrics"] = WrongType("key of another type", redis_client.dump("provider:list:s3:metrics"))
    redis_client.set("usage:large:2025-03-14:x", large)
    redis_client.hset("usage:hash:2025-03-14:x", "x", large)
    redis_client.set("usage:good:2025-03-14:x", 1)
    writers = {family: Writer(redis_client) for family in ("api_key", "provider", "token")}
    for family, writer in writers.items():
        writer.write(family, ["good"], 3)

    urls = settings.database_url.get_secret_value(), settings.redis_dsn.get_secret_value()
    done = subprocess.run([sys.executable, "-c", _DRAIN_ALONE, *urls], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    keys, refused, aggregated, peak_mb = json.loads(done.stdout)

    assert (keys, refused, aggregated) == (11, 6, 1)
    came = letters(postgres)
    # Of what is stored in part, the refused member alone is kept.
    raw |= {
        b"apikey:large:metrics": [b"note", large],
        b"apikey:count:metrics": [b"total_requests", large],
        b"token_usage:valid:i": b'{"usageCount":0,"x":"' + large + b'"}',
    }
    kept = {key: (reason, value) for key, reason, value in came if not key.startswith(b"usage:")}
    assert {key: value == raw[key] for key, (_, value) in kept.items()} == dict.fromkeys(raw, True)
    assert {key: reason.partition(",")[0] for key, (reason, _) in kept.items()} == {
        b"apikey:large:metrics": "unknown fields: expected at most 4194304 bytes of them",
        b"apikey:count:metrics": "total_requests: expected an integer",
        b"provider:list:s3:metrics": "key: expected a Redis hash",
        b"token_usage:valid:i": "unknown members: expected at most 4194304 bytes of them",
        b"token_usage:malformed:i": "value: expected {usageCount",
        b"event_queue": NO_EVENT.partition(",")[0],
    }
    merchants = {key: (reason, value) for key, reason, value in came if key.startswith(b"usage:")}
    assert "only these first 4096 bytes are kept" in merchants[b"usage:large:2025-03-14:x"][0]
    assert "its content is not kept here" in merchants[b"usage:hash:2025-03-14:x"][0]
    for family, writer in writers.items():
        assert stored(postgres, family, prefix="good") == writer.written
        assert_at_rest(redis_client, postgres, family)
    assert stored(postgres, "api_key", prefix="large") == {"large": {"total_requests": 1, "total_file_size": 0}}
    assert stored(postgres, "token", prefix="valid") == {"valid": {"usage_count": 1}}
    assert peak_mb < 330, "one of these values is held at a time, some eight times with all copies on their way"


def test_a_value_that_postgresql_can_hold_no_row_of_is_kept_in_part_with_its_counts(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LARGEST_RAW_BYTES", 1_000)
    large = {"y": "b" * 900, "x": "a" * 800, "note": "short", "upload_count": "1", "provider": "gcs"}
    redis_client.hset("provider:k:s3:metrics", mapping=large)
    redis_client.set("token_usage:t:i", "z" * 1_001)
    redis_client.set("token_usage:fits:i", "z" * 1_000)
    redis_client.set("provider:p:s3:metrics", Random(1).randbytes(2_000))
    dump = redis_client.dump("provider:p:s3:metrics")
    redis_client.set("event_queue", Random(1).randbytes(2_000))
    queue_dump = redis_client.dump("event_queue")
    assert drain_once(settings).dead_letters == 5
    came = {key: (reason, value) for key, reason, value in letters(postgres)}
    reason, fields = came[b"provider:k:s3:metrics"]
    assert reason.endswith("; the hash is larger than 1000 bytes, so its 2 longest fields are not kept")
    assert isinstance(fields, list)
    kept = {b"note": b"short", b"upload_count": b"1", b"provider": b"gcs"}
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == kept
    assert came[b"token_usage:fits:i"][1] == b"z" * 1_000
    assert came[b"token_usage:t:i"][1] == b"z" * 1_000
    assert came[b"token_usage:t:i"][0].endswith("; only the first 1000 of its 1001 bytes are kept")
    for key, whole in ((b"provider:p:s3:metrics", dump), (b"event_queue", queue_dump)):
        reason, value = came[key]
        assert value == WrongType("key of another type", whole[:1_000])
        assert reason.endswith(f"; only the first 1000 of its {len(whole)} bytes are kept")


def test_a_hash_of_100_000_fields_is_stored_and_its_malformed_one_is_kept(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fields = {f"field-{number}": str(number) for number in range(100_000)}
    redis_client.hset("apikey:wide:metrics", mapping={"total_requests": 3, **fields})
    redis_client.hset("apikey:broken:metrics", mapping={"total_requests": "x", **fields})
    Writer(redis_client).write("api_key", ["good"])
    report = drain_once(settings)
    assert (report.keys, report.dead_letters) == (3, 1)
    query = "select extra from raw.api_key_deltas where api_key_id in ('wide', 'broken')"
    assert postgres.execute(query).fetchall() == [(fields,)] * 2
    [(_, reason, value)] = letters(postgres)
    assert reason == "total_requests: expected an integer, came 'x'"
    assert value == [b"total_requests", b"x"]
    assert {name for name, fields in stored(postgres, "api_key").items() if fields["total_requests"]} == {
        "wide",
        "good",
    }


def test_keys_are_found_among_a_million_of_others(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    fill = "for i = ARGV[1], ARGV[2] do redis.call('SET', 'session:' .. i .. ':metrics', 'x') end"
    for first in range(0, 1_000_000, 50_000):
        redis_client.eval(fill, 0, first, first + 49_999)
    writers = {family: Writer(redis_client) for family in ("api_key", "token")}
    for family, writer in writers.items():
        writer.write(family, ["a", "b", "c"])
    redis_client.set("usage:m:2025-03-14:x", 1)
    drain_once(settings, list(writers))
    assert aggregate(settings, [DAY]).records_aggregated == 1
    for family, writer in writers.items():
        assert stored(postgres, family) == writer.written
    assert list(redis_client.scan_iter("usage_pipeline:claim:*", count=100_000)) == []
    assert redis_client.exists("session:0:metrics", "session:999999:metrics") == 2


def test_a_queue_of_100_000_items_is_stored_with_its_broken_ones_set_aside(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    for first in range(0, 100_000, 5_000):
        numbers = range(first, first + 5_000)
        redis_client.rpush(
            "event_queue", *(event_item(file_size=-1 if number % 1_000 == 7 else number) for number in numbers)
        )
    report = drain_once(settings)
    assert (report.keys, report.dead_letters) == (100_000, 100)
    query = "select count(*), count(distinct event_id), sum(file_size) from raw.request_events"
    expected = [number for number in range(100_000) if number % 1_000 != 7]
    assert postgres.execute(query).fetchall() == [(99_900, 99_900, sum(expected))]
    positions = postgres.execute("select position from ops.dead_letters order by 1").fetchall()
    assert positions == [(number,) for number in range(7, 100_000, 1_000)]
    assert_at_rest(redis_client, postgres, "event")


# totals that overflow, and replays

# Key, counted field, table, and the table's id.
FULL = {
    "api_key": ("apikey:full:metrics", "total_requests", "usage.api_keys", "api_key_id"),
    "provider": ("provider:full:s3:metrics", "upload_count", "usage.provider_usage", "api_key_id"),
    "token": ("token_usage:full:i", "usage_count", "usage.api_access_tokens", "token_id"),
}


def write_amount(client: redis.Redis, family: str, amount: int) -> None:
    key, field, _, _ = FULL[family]
    if family == "token":
        client.set(key, json.dumps({"usageCount": amount}))
    else:
        client.hset(key, field, amount)


def set_total(postgres: psycopg.Connection, family: str, amount: int) -> None:
    _, field, table, name = FULL[family]
    assert postgres.execute(f"update {table} set {field} = %s where {name} = 'full'", (amount,)).rowcount == 1


def totals(postgres: psycopg.Connection, families: Iterable[str] = FULL) -> dict[str, int]:
    """The totals of what was full, per family."""
    return {family: dict(postgres.execute(TOTALS[family]).fetchall())["full"][FULL[family][1]] for family in families}


def test_overflows_of_all_families_are_refused_one_by_one_and_count_once_when_there_is_room(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    writers = {family: Writer(redis_client) for family in FULL}
    for family in FULL:
        write_amount(redis_client, family, BIGINT)
    drain_once(settings)
    for family, writer in writers.items():
        write_amount(redis_client, family, 5)
        writer.write(family, [f"{place}-{number}" for place in ("a", "z") for number in range(20)], 2)

    assert drain_once(settings).dead_letters == 3

    for family, writer in writers.items():
        others = {name: fields for name, fields in stored(postgres, family).items() if name != "full"}
        assert others == writer.written
    assert totals(postgres) == dict.fromkeys(FULL, BIGINT)
    assert {reason for _, reason, _ in letters(postgres)} == {
        "total: expected at most 9223372036854775807 (bigint) with this key, came more"
    }
    for _ in range(3):
        assert [result.is_counted for result in replay(settings)] == [False] * 3
    assert totals(postgres) == dict.fromkeys(FULL, BIGINT)
    set_total(postgres, "provider", 100)
    assert {result.family: result.is_counted for result in replay(settings)} == {
        "api_key": False,
        "provider": True,
        "token": False,
    }
    for family in FULL:
        set_total(postgres, family, 200)

    together = Barrier(2)

    def replay_at_once(_: int) -> list[dead_letters.ReplayResult]:
        together.wait(30)
        return replay(settings)

    with ThreadPoolExecutor(2) as pool:
        rounds = list(pool.map(replay_at_once, range(2)))

    assert {result.is_counted for results in rounds for result in results} == {True}
    assert {result.family for results in rounds for result in results} == {"api_key", "token"}
    for _ in range(3):
        assert replay(settings) == []
    assert totals(postgres) == {"api_key": 205, "provider": 200, "token": 205}
    raw = "select sum(total_requests) from raw.api_key_deltas where api_key_id = 'full'"
    assert postgres.execute(raw).fetchall() == [(BIGINT + 5,)]
    for family in FULL:
        assert_at_rest(redis_client, postgres, family)


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
def test_a_replay_that_crashes_at_any_step_counts_once_in_the_end(
    family: str,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        """Leaves one letter of 5 (or of a file of 5 bytes), whose cause is mended then."""
        if family == "event":
            event = json.loads(event_item(file_size=1))
            redis_client.rpush("event_queue", *(json.dumps(event | {"file_size": size}) for size in (1, 5)))
            assert drain_once(settings, ["event"]).dead_letters == 1
            postgres.execute("delete from raw.request_events")
            postgres.execute("delete from raw.request_event_ids")
            return
        set_total(postgres, family, BIGINT)
        write_amount(redis_client, family, 5)
        assert drain_once(settings, [family]).dead_letters == 1
        set_total(postgres, family, 100)

    def counted() -> int:
        if family == "event":
            [(size,)] = postgres.execute("select coalesce(sum(file_size), 0) from raw.request_events").fetchall()
            return int(size)
        return totals(postgres, [family])[family] - 100

    if family != "event":
        write_amount(redis_client, family, 1)
        drain_once(settings, [family])
    step, outcomes = 0, set()
    has_crashed = True
    with lives(monkeypatch):
        while has_crashed:
            step += 1
            refuse()
            with Life(settings, at_step=crash_at(step)) as life:
                has_crashed = False
                try:
                    list(dead_letters.replay(life.store._connection, life.store, times=PossibleTimes()))
                except Crash:
                    has_crashed = True
            outcomes.add(counted())
            replay(settings)
            replay(settings)
            assert counted() == 5, f"after a crash at step {step}, {life.last_step}"
            assert postgres.execute("select 1 from ops.dead_letters where replayed_at is null").fetchall() == []
    assert outcomes == {0, 5}, "some crashes come before the commit, some after it"
    assert step > 5

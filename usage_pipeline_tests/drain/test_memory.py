"""What a drain holds in memory is bounded, whatever writers put into Redis, and every count in it is stored all the same."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.drain import dead_letters, families, room
from usage_pipeline.drain.room import Room
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import Settings
from usage_pipeline.values import TimeWindow
from usage_pipeline_tests.drain.rig import Writer, assert_at_rest, event_item, stored

MB = 10**6
# Of one kind: more than a drain may take. A claimed batch, the next one, and copies of both on their way.
HOSTILE_MB = 140
LARGEST_PEAK_MB = 220
WINDOW = TimeWindow.around(1_735_689_600_000, retention_days=180)

_DRAIN_ALONE = """
import json, sys
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import load_settings

report = drain_once(load_settings(database_url=sys.argv[1], redis_url=sys.argv[2]))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([report.keys, report.dead_letters, int(status["VmHWM"].split()[0]) // 1000]))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


def drained_alone(settings: Settings) -> tuple[int, int]:
    """Keys and dead letters of a drain in a process of its own, of which the memory was bounded."""
    urls = settings.database_url.get_secret_value(), settings.redis_dsn.get_secret_value()
    done = subprocess.run([sys.executable, "-c", _DRAIN_ALONE, *urls], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    keys, refused, peak_mb = json.loads(done.stdout)
    assert peak_mb < LARGEST_PEAK_MB
    return keys, refused


def hashes(client: redis.Redis, size: int) -> None:
    for number in range(HOSTILE_MB * MB // size):
        client.hset(f"apikey:{number}:metrics", mapping={"total_requests": 3, "note": b"x" * size})


def announced_hashes(client: redis.Redis, size: int) -> None:
    hashes(client, size)
    client.sadd(
        "usage_pipeline:touched:api_key", *(f"apikey:{number}:metrics" for number in range(HOSTILE_MB * MB // size))
    )


def members(client: redis.Redis, size: int) -> None:
    for number in range(HOSTILE_MB * MB // size):
        client.hset(f"apikey:{number}:metrics", mapping={"total_requests": 3, "total_file_size": b"1" * size})


def kept_members(client: redis.Redis, size: int) -> None:
    """Just below the limit for unknown fields, when they are JSON, which is six times as long."""
    for number in range(40):
        client.hset(f"apikey:{number}:metrics", mapping={"total_requests": 3, "note": b"\x01" * size})


@pytest.mark.parametrize(
    ("write", "size", "letters"),
    [
        (hashes, 7 * MB, 20),
        (announced_hashes, 7 * MB, 20),
        (members, 7 * MB, 20),
        (hashes, 2 * MB, 0),
        (kept_members, 690_000, 0),
    ],
    ids=["unknown fields", "announced", "counts", "many", "kept"],
)
def test_hashes_of_any_size_are_stored_with_their_counts_in_bounded_memory(
    write: Callable[[redis.Redis, int], None],
    size: int,
    letters: int,
    settings: Settings,
    redis_client: redis.Redis,
    postgres: psycopg.Connection,
) -> None:
    write(redis_client, size)
    number = redis_client.dbsize() - redis_client.exists("usage_pipeline:touched:api_key")
    assert drained_alone(settings) == (number, letters)
    expected = {str(one): {"total_requests": 3, "total_file_size": 0} for one in range(number)}
    assert stored(postgres, "api_key") == expected
    sizes = postgres.execute("select distinct length(raw) > %s from ops.dead_letters", (size,)).fetchall()
    assert sizes == [(True,)] * bool(letters), "each is kept whole"
    assert_at_rest(redis_client, postgres, "api_key")


def test_tokens_lists_and_names_of_any_size_are_bounded_too(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    size = 14 * MB
    for number in range(6):
        redis_client.set(f"token_usage:t{number}:i", b'{"usageCount":2,"note":"' + b"x" * size + b'"}')
        redis_client.rpush(f"provider:p{number}:s3:metrics", Random(number).randbytes(size))
        redis_client.hset(f"apikey:{'n' * size}{number}:metrics", "total_requests", 1)
        redis_client.sadd("usage_pipeline:touched:token", f"token_usage:{'n' * size}{number}:i")
    writer = Writer(redis_client)
    writer.write("token", ["good"])
    assert drained_alone(settings) == (13, 12)
    assert stored(postgres, "token", prefix="t") == {f"t{number}": {"usage_count": 2} for number in range(6)}
    assert stored(postgres, "token", prefix="good") == writer.written
    # Nobody counts under such names; they stay where they are.
    assert len([*redis_client.scan_iter("apikey:*")]) == 6
    assert redis_client.exists("usage_pipeline:touched:token", "usage_pipeline:taken:token") == 0


@pytest.mark.parametrize("kind", ["token", "event"])
def test_json_of_millions_of_members_does_not_end_a_drain(
    kind: str, settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    members = b",".join(b'"%x":1' % number for number in range(2_400_000))
    value = b'{"usageCount":2,' + members + b"}"
    if kind == "token":
        redis_client.set("token_usage:evil:i", value)
    else:
        redis_client.rpush("event_queue", value, event_item(file_size=1))
    assert drained_alone(settings) == ((1, 1) if kind == "token" else (2, 1))
    [letter] = dead_letters.list_dead_letters(postgres)
    assert letter.raw == value
    assert "expected JSON with at most 100000 colons" in letter.reason
    assert_at_rest(redis_client, postgres, kind)


def test_names_of_fields_are_not_kept_in_memory() -> None:
    before = families._picker.cache_info().currsize
    for number in range(20):
        for plain in (families.plain_api_key, families.plain_provider):
            assert plain(b"apikey:k:metrics", [b"%d" % number * 1_000, b"1"], WINDOW) is None
    assert families._picker.cache_info().currsize == before


def test_items_of_any_size_are_stored_part_by_part_in_their_order(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    note, size = b"x" * 7 * MB, 7 * MB
    first = event_item(file_size=1)
    others = (
        event_item(file_size=number + 10, note="Y").replace(b"Y", note) if number % 2 else note
        for number in range(HOSTILE_MB * MB // size)
    )
    items: list[bytes] = [first, *others, *[event_item(file_size=5)] * 2]
    # In conflict with the first one, and again too large.
    items.append(first.replace(b'"file_size": 1', b'"file_size": 2').replace(b"{", b'{"note": "' + note + b'", ', 1))
    assert b'"file_size": 2' in items[-1]
    for item in items:
        redis_client.rpush("event_queue", item)
    keys, refused = drained_alone(settings)
    assert (keys, refused) == (len(items), 21)
    sizes = [size for (size,) in postgres.execute("select file_size from raw.request_events order by file_size")]
    assert sizes == [1, 5, *range(11, 30, 2)]
    found = postgres.execute(
        "select position, reason, member, md5(raw) from ops.dead_letters order by position"
    ).fetchall()
    assert [position for position, *_ in found] == [*range(1, 21), 23]
    assert {member for position, _, member, _ in found if position % 2 == 0} == {"note"}
    assert {member for position, _, member, _ in found if position % 2 == 1} == {None}
    assert found[-1][1].startswith("event_id: expected the stored payload")
    assert postgres.execute("select duplicates from ops.sync_batches where family = 'event'").fetchall() == [(1,)]
    assert_at_rest(redis_client, postgres, "event")


def test_what_is_too_large_to_be_read_is_counted_and_told_and_not_kept(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LARGEST_BATCH_BYTES", 2_000)
    for module in ("drain.room", "drain.batch", "drain.sources.node", "drain.event_queue"):
        monkeypatch.setattr(f"usage_pipeline.{module}.LARGEST_KEY_BYTES", 20_000)
    large = Random(1).randbytes(30_000)
    redis_client.hset("apikey:k:metrics", mapping={"total_requests": 3, "failed_requests": "x", "note": large})
    redis_client.hset(
        "provider:k:s3:metrics", mapping={"upload_count": 2, "provider": "s3", "user_id": "u", "note": large}
    )
    redis_client.hset("provider:l:s3:metrics", mapping={"upload_count": 4, "provider": large + b"x" * 65_536})
    redis_client.set("token_usage:t:i", large)
    redis_client.rpush("token_usage:l:i", large)
    redis_client.rpush("event_queue", event_item(file_size=1), large, "", large, event_item(file_size=2))
    writer = Writer(redis_client)
    writer.write("api_key", ["good", "fine"])
    assert drain_once(settings).dead_letters == 9
    assert stored(postgres, "api_key", prefix="k") == {"k": {"total_requests": 3, "total_file_size": 0}}
    assert stored(postgres, "provider") == {
        "k": {"upload_count": 2, "total_file_size": 0},
        "l": {"upload_count": 4, "total_file_size": 0},
    }
    found = {
        (letter.source_key.decode(), letter.position, letter.member): (letter.reason, letter.raw, letter.raw_format)
        for letter in dead_letters.list_dead_letters(postgres)
    }
    of_list = r"key: expected a Redis string, came a list of \d+ bytes; its content is not kept"
    too_long = "item: expected at most 20000 bytes, came 30000; only the first 20000 are kept"
    size = r"expected at most 20000 bytes, came \d+"
    expected = {
        ("apikey:k:metrics", None, "failed_requests"): ("failed_requests: expected an integer, came 'x'", None),
        ("apikey:k:metrics", None, "other fields"): (f"key: {size}; its other fields are not kept", b""),
        ("provider:k:s3:metrics", None, "other fields"): (f"key: {size}; its other fields are not kept", b""),
        ("provider:l:s3:metrics", None, "other fields"): (f"key: {size}; its other fields are not kept", b""),
        ("token_usage:t:i", None, None): (f"key: {size}; only the first 20000 are kept", large[:20_000]),
        ("token_usage:l:i", None, None): (of_list, b""),
        ("event_queue", 1, None): (too_long, large[:20_000]),
        ("event_queue", 2, None): (r"item: expected a request event as JSON, came '': .*", b""),
        ("event_queue", 3, None): (too_long, large[:20_000]),
    }
    assert found.keys() == expected.keys()
    for place, (reason, raw) in expected.items():
        assert re.fullmatch(reason, found[place][0]), found[place]
        assert raw is None or found[place][1] == raw
    sizes = [size for (size,) in postgres.execute("select file_size from raw.request_events order by file_size")]
    assert sizes == [1, 2]
    assert stored(postgres, "api_key", prefix="good") | stored(postgres, "api_key", prefix="fine") == writer.written
    for family in ("api_key", "provider", "token", "event"):
        assert_at_rest(redis_client, postgres, family)


def test_an_event_queue_of_another_type_that_is_too_large_is_told_and_not_kept(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("drain.room", "drain.batch", "drain.sources.node", "drain.event_queue"):
        monkeypatch.setattr(f"usage_pipeline.{module}.LARGEST_KEY_BYTES", 1_000)
    redis_client.set("event_queue", "x" * 5_000)
    assert drain_once(settings).dead_letters == 1
    [letter] = dead_letters.list_dead_letters(postgres)
    assert letter.reason.startswith("key: expected a Redis list, came a string of ")
    assert letter.reason.endswith(" bytes; its content is not kept")
    assert (letter.raw, letter.raw_format) == (b"", "dump")
    assert_at_rest(redis_client, postgres, "event")


@given(st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=6))
def test_the_first_key_has_room_and_then_as_many_as_fit(sends: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "LARGEST_BATCH_BYTES", 20)
        patch.setattr(room, "LARGEST_KEY_BYTES", 25)
        one, taken, rest = Room(), list[int](), list[int]()
        for sizes in sends:
            number = one.take(sizes)
            taken += sizes[:number]
            rest += sizes[number:]
    everything = [size for sizes in sends for size in sizes]
    assert taken + rest == everything, "in order"
    assert bool(taken) == bool(everything)
    assert sum(taken) <= 20 or len(taken) == 1
    assert not rest or sum(taken) + rest[0] > 20, "as many as fit"
    assert one.is_too_large == (len(taken) == 1 and taken[0] > 25)

"""What a record is on a Redis Cluster: one step for each slot, which counts once."""

from collections.abc import Callable
from datetime import date

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import TryAgainError
from usage_recorder import commands as record_commands
from usage_recorder.commands import Moment, Record
from usage_recorder.delivery.outbox import Outbox
from usage_recorder.delivery.sends import Send, new_send
from usage_recorder.failures import RecordFailures
from usage_recorder.script import RECORD

AT = Moment(1_735_689_600_000, date(2025, 1, 1))
RECORDS: dict[str, Callable[[], Record]] = {
    "api_key": lambda: record_commands.api_key(
        AT, "k", success=True, requests=1, failed=None, file_size=5, files_uploaded=1
    ),
    "provider": lambda: record_commands.provider(AT, "k", "a:b", user_id="u", uploads=1, file_size=5),
    "token": lambda: record_commands.token(AT, "t", "host:80", count=1),
    "merchant": lambda: record_commands.merchant(AT, "m", "orders", value=1),
    "event": lambda: record_commands.event(
        AT,
        "123e4567-e89b-12d3-a456-426614174000",
        "k",
        now_ms=AT.ms,
        user_id="u",
        provider="s3",
        event_type="upload",
        file_size=5,
        success=True,
    ),
}


@pytest.mark.parametrize("family", RECORDS)
def test_each_slot_of_a_record_has_one_step_with_a_hash_of_numbers_of_its_own(family: str) -> None:
    commands = RECORDS[family]().commands()
    parts = new_send(commands, "r", 0, 1, began_ms=0, is_cluster=True).parts
    assert sorted(place for part in parts for place in part.places) == [*range(len(commands.commands) + 1)]
    slots = []
    for part in parts:
        names = part.words[1 : 1 + int(part.words[0])]
        assert names[0] == part.route
        assert len({key_slot(str(name).encode()) for name in names}) == 1
        slots.append(key_slot(part.route.encode()))
    assert len(set(slots)) == len(slots)


@pytest.mark.parametrize("family", RECORDS)
def test_the_steps_of_a_cluster_do_what_one_step_does_and_once(family: str, redis_client: redis.Redis) -> None:
    contents = {}
    for is_cluster in (False, True):
        redis_client.flushall()
        send = new_send(RECORDS[family]().commands(), "r", 0, 1, began_ms=0, is_cluster=is_cluster)
        for _ in range(2):
            for part in send.parts:
                assert redis_client.eval(RECORD, *part.words) in ([], 1)
        keys_and_values = {
            key: redis_client.hgetall(key) if redis_client.type(key) == b"hash" else redis_client.dump(key)
            for key in redis_client.scan_iter()
            if not key.startswith(b"usage_pipeline:recorder:")
        }
        for key, value in keys_and_values.items():
            if key.startswith(b"usage_pipeline:recorded:"):
                assert value.pop(b"life")
            assert b"touched" in key or key == b"event_queue" or redis_client.ttl(key) > 0
        contents[is_cluster] = keys_and_values
    assert contents[True] == contents[False]
    assert len(contents[True]) >= 2


def test_what_a_write_refused_is_taken_out_of_an_odometer_in_another_slot(redis_client: redis.Redis) -> None:
    """On a cluster the odometer cannot know; a send of its own puts it right."""
    outbox = Outbox(RecordFailures(), is_cluster=True)
    redis_client.hset("apikey:k:metrics", "total_file_size", 2**63 - 1)
    send = outbox.begin(RECORDS["api_key"]())
    assert isinstance(send, Send)
    assert outbox.take(send, [redis_client.eval(RECORD, *part.words) for part in send.parts]) is False
    odometer = "usage_pipeline:recorded:api_key:2025-01-01"
    assert redis_client.hget(odometer, "total_file_size") == b"5"
    [correcting] = outbox.portion(10)
    for _ in range(2):
        answers = [redis_client.eval(RECORD, *part.words) for part in correcting.parts]
    assert outbox.end_portion([correcting], [answers])
    assert not outbox.has_left()
    assert redis_client.hget(odometer, "total_file_size") == b"0"
    assert redis_client.hget(odometer, "records") == b"1", "the other fields were written"


def test_a_slot_that_is_being_moved_holds_up_no_other(redis_client: redis.Redis) -> None:
    outbox = Outbox(RecordFailures(), is_cluster=True)
    send = outbox.begin(RECORDS["merchant"]())
    assert isinstance(send, Send)
    counter, odometer = send.parts
    assert outbox.take(send, [TryAgainError("Multiple keys request during rehashing of slot"), []]) is True
    assert send.parts == [counter]
    assert outbox.kept == 1
    assert isinstance(outbox.begin(RECORDS["merchant"]()), Send), "others are sent"
    assert outbox.portion(10) == [send]
    assert outbox.end_portion([send], [[[]]])
    assert not outbox.has_left()
    assert odometer.places == (0,)

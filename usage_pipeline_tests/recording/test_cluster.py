"""What a record is on a Redis Cluster: one command per key."""

from collections.abc import Callable
from datetime import date

import pytest
import redis
from usage_recorder import commands as record_commands
from usage_recorder.cluster import answers_of, by_key
from usage_recorder.commands import Moment, Record

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
def test_each_key_of_a_record_is_written_by_one_command_in_its_slot(family: str) -> None:
    commands = RECORDS[family]().commands()
    sent = by_key(commands)
    assert sum(one.commands for one in sent) == len(commands)
    assert len({one.sent.key for one in sent}) == len(sent)
    for one in sent:
        command = one.sent.command
        assert one.sent.key == (command[3] if command[0] == "EVAL" else command[1])


@pytest.mark.parametrize("family", RECORDS)
def test_one_command_per_key_does_what_the_commands_do(family: str, redis_client: redis.Redis) -> None:
    commands = RECORDS[family]().commands()
    singly = [redis_client.execute_command(*command) for command in commands]
    expected = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    redis_client.flushall()
    sent = by_key(commands)
    assert answers_of(sent, [redis_client.execute_command(*one.sent.command) for one in sent]) == singly
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == expected
    assert all(redis_client.ttl(key) > 0 for key in expected if b"touched" not in key and key != b"event_queue")


def test_an_error_of_one_command_is_its_own_and_an_error_of_the_whole_is_everyones(redis_client: redis.Redis) -> None:
    redis_client.hset("k", "f", "no number")
    sent = by_key([("HINCRBY", "k", "f", 1), ("HINCRBY", "k", "g", 2), ("SADD", "s", "x")])
    answers = answers_of(sent, [redis_client.execute_command(*one.sent.command) for one in sent])
    assert isinstance(answers[0], redis.ResponseError)
    assert answers[1:] == [2, 1]
    lost = redis.TimeoutError()
    assert answers_of(sent, [lost, 1]) == [lost, lost, 1]

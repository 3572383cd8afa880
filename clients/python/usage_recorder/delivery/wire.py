"""Asks Redis to run the script of sends, sync and asyncio. Every send has answers: an error is an answer, and is not raised."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import Any, Union

import redis
import redis.asyncio
from redis.exceptions import NoScriptError, RedisClusterException

from usage_recorder.delivery.sends import Answer, NothingSentError, Part, Send, Word
from usage_recorder.script import RECORD, RECORD_SHA
from usage_recorder.slot_owners import KeyCommand, send_to_owners, send_to_owners_async

# RedisClusterException is no RedisError. It means that a whole cluster does not answer, or that nobody owns a slot.
REDIS_ERRORS = (redis.RedisError, RedisClusterException, OSError)
AnyRedis = Union[redis.Redis, redis.RedisCluster]
AnyAsyncRedis = Union[redis.asyncio.Redis, redis.asyncio.RedisCluster]
# Only what makes a connection raises these. redis-py has an error of its own in their place.
_NEVER_CONNECTED = (ConnectionRefusedError, FileNotFoundError, socket.gaierror)
_Script = Sequence[Word]
# The script itself is sent only to a server that does not have it.
_BY_NAME: _Script = ("EVALSHA", RECORD_SHA)
_IN_FULL: _Script = ("EVAL", RECORD)


def exchange(client: AnyRedis, sends: Sequence[Send]) -> list[list[Answer]]:
    """Sends all in one round trip; the answers to each send's parts."""
    parts = [part for send in sends for part in send.parts]
    answers = _ask(client, _BY_NAME, parts)
    if unknown := _unknown(answers):
        _put(answers, unknown, _ask(client, _IN_FULL, [parts[place] for place in unknown]))
    return _by_send(sends, answers)


async def exchange_async(client: AnyAsyncRedis, sends: Sequence[Send]) -> list[list[Answer]]:
    """As `exchange`."""
    parts = [part for send in sends for part in send.parts]
    answers = await _ask_async(client, _BY_NAME, parts)
    if unknown := _unknown(answers):
        _put(answers, unknown, await _ask_async(client, _IN_FULL, [parts[place] for place in unknown]))
    return _by_send(sends, answers)


def _ask(client: AnyRedis, script: _Script, parts: Sequence[Part]) -> list[Answer]:
    try:
        if isinstance(client, redis.RedisCluster):
            return send_to_owners(client, [KeyCommand(part.route, (*script, *part.words)) for part in parts])
        if len(parts) == 1:
            return [client.execute_command(*script, *parts[0].words)]
        pipeline = client.pipeline(transaction=False)
        for part in parts:
            pipeline.execute_command(*script, *part.words)
        return list(pipeline.execute(raise_on_error=False))
    except REDIS_ERRORS as error:
        return [_said_plainly(client, error)] * len(parts)


async def _ask_async(client: AnyAsyncRedis, script: _Script, parts: Sequence[Part]) -> list[Answer]:
    try:
        if isinstance(client, redis.asyncio.RedisCluster):
            return await send_to_owners_async(
                client, [KeyCommand(part.route, (*script, *part.words)) for part in parts]
            )
        if len(parts) == 1:
            return [await client.execute_command(*script, *parts[0].words)]
        pipeline = client.pipeline(transaction=False)
        for part in parts:
            pipeline.execute_command(*script, *part.words)
        return list(await pipeline.execute(raise_on_error=False))
    except REDIS_ERRORS as error:
        return [_said_plainly(client, error)] * len(parts)


def _said_plainly(client: AnyRedis | AnyAsyncRedis, error: Exception) -> Exception:
    """NothingSentError where that is sure: there was one try, and it made no connection."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, _NEVER_CONNECTED):
        cause = cause.__cause__ or cause.__context__
    if cause is None or isinstance(client, (redis.RedisCluster, redis.asyncio.RedisCluster)):
        return error
    retry = client.connection_pool.connection_kwargs.get("retry")
    return NothingSentError(str(error)) if retry is not None and not retry.get_retries() else error


def _unknown(answers: Iterable[Answer]) -> list[int]:
    return [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]


def _put(answers: list[Any], places: Iterable[int], others: Iterable[Answer]) -> None:
    for place, answer in zip(places, others):
        answers[place] = answer


def _by_send(sends: Sequence[Send], answers: Iterable[Answer]) -> list[list[Answer]]:
    each = iter(answers)
    return [[next(each) for _ in send.parts] for send in sends]

"""A record on a Redis Cluster. A transaction cannot span slots there, so the commands on one key become one script.

So a drain takes everything that a record wrote to a key, or nothing: never counts without the names that belong to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import redis
import redis.asyncio

from usage_recorder.commands import Command
from usage_recorder.slot_owners import KeyCommand, send_to_owners, send_to_owners_async

# Runs commands on one key. Each command is given as the number of its other arguments, its name, and these arguments.
_ALL_OF_A_KEY = """\
local replies, at = {}, 1
while at <= #ARGV do
  local last = at + 1 + tonumber(ARGV[at])
  replies[#replies + 1] = redis.pcall(ARGV[at + 1], KEYS[1], unpack(ARGV, at + 2, last))
  at = last + 1
end
return replies
"""


class KeyCommands(NamedTuple):
    """The command that is sent for one key, and how many commands it stands for."""

    sent: KeyCommand
    commands: int


def send(client: redis.RedisCluster, commands: Iterable[Command]) -> list[Any]:
    """Sends all in one round trip. Returns an answer or error per command. Raises redis.RedisError, RedisClusterException."""
    by_keys = by_key(commands)
    return answers_of(by_keys, send_to_owners(client, [one.sent for one in by_keys]))


async def send_async(client: redis.asyncio.RedisCluster, commands: Iterable[Command]) -> list[Any]:
    """As `send`."""
    by_keys = by_key(commands)
    return answers_of(by_keys, await send_to_owners_async(client, [one.sent for one in by_keys]))


def by_key(commands: Iterable[Command]) -> list[KeyCommands]:
    """Makes one command of each run of commands on the same key. Pure."""
    runs = ((key, list(run)) for key, run in groupby(commands, _key))
    return [KeyCommands(KeyCommand(key, run[0] if len(run) == 1 else _script(key, run)), len(run)) for key, run in runs]


def answers_of(sent: Sequence[KeyCommands], answers: Sequence[Any]) -> list[Any]:
    """An answer or an error per command. If a script failed as a whole, each of its commands failed. Pure."""
    return [
        each
        for (_, commands), answer in zip(sent, answers)
        for each in (answer if commands > 1 and isinstance(answer, list) else [answer] * commands)
    ]


def _key(command: Command) -> str | bytes:
    key = command[3] if command[0] == "EVAL" else command[1]
    return key if isinstance(key, bytes) else str(key)


def _script(key: str | bytes, run: Sequence[Command]) -> Command:
    arguments = (word for name, _, *rest in run for word in (len(rest), name, *rest))
    return ("EVAL", _ALL_OF_A_KEY, 1, key, *arguments)

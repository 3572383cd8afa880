"""A record on a Redis Cluster, where a transaction cannot span slots: what concerns one key is one script.

So the drain takes all of it or nothing, and never counts without the names that go with them.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import redis
from redis.cluster import PipelineCommand

from usage_pipeline.counters.record_commands import Command

# Carries out commands on one key, each given as the number of its further arguments, its name, and these.
_ALL_OF_A_KEY = """\
local replies, at = {}, 1
while at <= #ARGV do
  local last = at + 1 + tonumber(ARGV[at])
  replies[#replies + 1] = redis.pcall(ARGV[at + 1], KEYS[1], unpack(ARGV, at + 2, last))
  at = last + 1
end
return replies
"""


class KeyCommand(NamedTuple):
    """What is sent for one key, and how many commands it stands for."""

    command: Command
    commands: int


def by_key(commands: Iterable[Command]) -> list[KeyCommand]:
    """One command per run of commands on the same key. Pure."""
    runs = (list(run) for _, run in groupby(commands, _key))
    return [KeyCommand(run[0] if len(run) == 1 else _script(run), len(run)) for run in runs]


def answers_of(sent: Sequence[KeyCommand], answers: Sequence[Any]) -> list[Any]:
    """One answer per command, errors among them; a script that failed as a whole failed for each. Pure."""
    return [
        each
        for (_, commands), answer in zip(sent, answers, strict=True)
        for each in (answer if commands > 1 and isinstance(answer, list) else [answer] * commands)
    ]


def send(client: redis.RedisCluster, commands: Sequence[Command]) -> list[Any]:
    """Sends commands to the owners of their keys in one round trip, and again only where the slot has moved.

    `ClusterPipeline.execute` would also send again what a lost connection may have carried out: that counts twice.
    """
    queued = [PipelineCommand(command, position=number) for number, command in enumerate(commands)]  # type: ignore[no-untyped-call]  # redis-py's
    pipeline = client.pipeline()  # type: ignore[no-untyped-call]  # redis-py's
    answers: list[Any] = pipeline.send_cluster_commands(queued, raise_on_error=False, allow_redirections=False)
    for number, answer in enumerate(answers):
        if isinstance(answer, redis.exceptions.AskError):
            try:
                answers[number] = client.execute_command(*commands[number])  # type: ignore[no-untyped-call]  # redis-py's
            except redis.RedisError as error:
                answers[number] = error
    return answers


def _key(command: Command) -> str | bytes | int:
    return command[3] if command[0] == "EVAL" else command[1]


def _script(run: Sequence[Command]) -> Command:
    arguments = (word for name, _, *rest in run for word in (len(rest), name, *rest))
    return ("EVAL", _ALL_OF_A_KEY, 1, run[0][1], *arguments)

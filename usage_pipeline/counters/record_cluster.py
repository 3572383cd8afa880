"""A record on a Redis Cluster, where a transaction cannot span slots: what concerns one key is one script.

So the drain takes all of it or nothing, and never counts without the names that go with them.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import redis
import redis.asyncio
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

    key: str
    command: Command
    commands: int


def send(client: redis.RedisCluster, commands: Iterable[Command]) -> list[Any]:
    """One answer per command, errors among them: sent at once to the owners of their keys, and again only if a slot moved.

    `ClusterPipeline.execute` would also send again what a lost connection may have carried out: that counts twice. The
    node is named since redis-py would ask one for the keys of a script. Raises redis.RedisError, RedisClusterException.
    """
    sent = by_key(commands)
    queued = [
        PipelineCommand(one.command, {"target_nodes": client.get_node_from_key(one.key)}, number)  # type: ignore[no-untyped-call]  # redis-py's
        for number, one in enumerate(sent)
    ]
    pipeline = client.pipeline()  # type: ignore[no-untyped-call]  # redis-py's
    answers: list[Any] = pipeline.send_cluster_commands(queued, raise_on_error=False, allow_redirections=False)
    for number, answer in enumerate(answers):
        if isinstance(answer, redis.exceptions.AskError):
            try:
                answers[number] = client.execute_command(*sent[number].command)  # type: ignore[no-untyped-call]  # redis-py's
            except redis.RedisError as error:
                answers[number] = error
    return answers_of(sent, answers)


async def send_async(client: redis.asyncio.RedisCluster, commands: Iterable[Command]) -> list[Any]:
    """As `send`; here the pipeline sends again only what moved."""
    sent = by_key(commands)
    await client.initialize()
    pipeline = client.pipeline()
    for one in sent:
        pipeline.execute_command(*one.command, target_nodes=client.get_node_from_key(one.key))
    return answers_of(sent, await pipeline.execute(raise_on_error=False))


def by_key(commands: Iterable[Command]) -> list[KeyCommand]:
    """One command per run of commands on the same key. Pure."""
    runs = ((key, list(run)) for key, run in groupby(commands, _key))
    return [KeyCommand(key, run[0] if len(run) == 1 else _script(key, run), len(run)) for key, run in runs]


def answers_of(sent: Sequence[KeyCommand], answers: Sequence[Any]) -> list[Any]:
    """One answer per command, errors among them; a script that failed as a whole failed for each. Pure."""
    return [
        each
        for (_, _, commands), answer in zip(sent, answers, strict=True)
        for each in (answer if commands > 1 and isinstance(answer, list) else [answer] * commands)
    ]


def _key(command: Command) -> str:
    key = command[3] if command[0] == "EVAL" else command[1]
    return key.decode() if isinstance(key, bytes) else str(key)


def _script(key: str, run: Sequence[Command]) -> Command:
    arguments = (word for name, _, *rest in run for word in (len(rest), name, *rest))
    return ("EVAL", _ALL_OF_A_KEY, 1, key, *arguments)

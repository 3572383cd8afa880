"""Sends commands to the nodes of a Redis Cluster that own the keys, even if a slot moves meanwhile. Sync and asyncio.

redis-py knows which node owns which slot. `send_to_owners` says why its pipelines are not used as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Union

import redis
import redis.asyncio
from redis.asyncio import cluster as asyncio_cluster
from redis.cluster import PRIMARY, ClusterNode, PipelineCommand
from redis.exceptions import AskError, MovedError

Command = Sequence[Union[bytes, str, int]]
# How many redirects are followed. Even a slot that has moved, and is moving again, needs fewer.
_MOST_REDIRECTS = 5


class KeyCommand(NamedTuple):
    """A command and the key that it concerns."""

    key: str | bytes
    command: Command


def send_to_owners(client: redis.RedisCluster, commands: Sequence[KeyCommand]) -> list[Any]:
    """Sends all commands at once, and again only those whose slot has moved. Returns an answer or an error per command.

    `ClusterPipeline.execute` does not do: when a connection is lost, it sends commands again that may have run. It also asks a
    node for the keys of each script, and fails if a slot moves to a primary that had none before. Raises redis.RedisError or
    RedisClusterException if nothing was sent.
    """
    queued = [
        PipelineCommand(command, {"target_nodes": client.get_node_from_key(key)}, number)
        for number, (key, command) in enumerate(commands)
    ]
    pipeline = client.pipeline()
    answers: list[Any] = pipeline.send_cluster_commands(queued, raise_on_error=False, allow_redirections=False)
    return [_followed(client, answer, one.command) for answer, one in zip(answers, commands)]


async def send_to_owners_async(client: redis.asyncio.RedisCluster, commands: Sequence[KeyCommand]) -> list[Any]:
    """As `send_to_owners`."""
    await client.initialize()
    pipeline = client.pipeline()
    for key, command in commands:
        pipeline.execute_command(*command, target_nodes=client.get_node_from_key(key))  # type: ignore[arg-type]  # bytes do
    answers = await pipeline.execute(raise_on_error=False, allow_redirections=False)
    return [await _followed_async(client, answer, one.command) for answer, one in zip(answers, commands)]


def _followed(client: redis.RedisCluster, answer: Any, command: Command) -> Any:
    """Follows redirects, and returns the answer of the owner. A node that redirects has not run the command."""
    for _ in range(_MOST_REDIRECTS):
        if not isinstance(answer, AskError):
            break
        known = client.get_node(answer.host, answer.port)
        if isinstance(answer, MovedError):
            _note_move(client.nodes_manager, answer)
            known = client.get_node(answer.host, answer.port)
        node = known or ClusterNode(answer.host, answer.port, PRIMARY)
        server = client.get_redis_connection(node)
        try:
            pipeline = server.pipeline(transaction=False)
            pipeline.execute_command("ASKING")
            pipeline.execute_command(*command)
            answer = pipeline.execute(raise_on_error=False)[-1]
        except (redis.RedisError, OSError) as error:
            answer = error
        finally:
            if known is None:
                server.close()
    return answer


async def _followed_async(client: redis.asyncio.RedisCluster, answer: Any, command: Command) -> Any:
    """As `_followed`."""
    for _ in range(_MOST_REDIRECTS):
        if not isinstance(answer, AskError):
            break
        if isinstance(answer, MovedError) and (noting := _note_move(client.nodes_manager, answer)) is not None:
            await noting
        known = client.get_node(answer.host, answer.port)
        options = client.nodes_manager.connection_kwargs
        node = known or asyncio_cluster.ClusterNode(answer.host, answer.port, PRIMARY, **options)
        asked = [asyncio_cluster.PipelineCommand(0, "ASKING"), asyncio_cluster.PipelineCommand(1, *command)]
        try:
            await node.execute_pipeline(asked)
            answer = asked[1].result
        except (redis.RedisError, OSError) as error:
            answer = error
        finally:
            if known is None:
                await node.disconnect()
    return answer


def _note_move(nodes: Any, answer: MovedError) -> Any:
    """Tells redis-py the new owner, whatever the method's name: it changed in redis-py 7.1. In asyncio await the result."""
    note = nodes.move_slot if hasattr(nodes, "move_slot") else nodes.update_moved_exception
    return note(answer)

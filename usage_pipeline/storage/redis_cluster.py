"""A whole Redis Cluster: its client, reading from it, and commands that go to the owners of their keys.

redis-py knows which node owns which slot. Its pipelines are not used as they are: see `send_to_owners`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
import redis.asyncio
from redis.asyncio import cluster as asyncio_cluster
from redis.backoff import NoBackoff
from redis.cluster import PRIMARY, ClusterNode, PipelineCommand
from redis.exceptions import AskError, MovedError, RedisClusterException
from redis.retry import Retry

from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import Command, PinnedConnection, RedisUnavailable

# A slot that has moved, and is moving on: there is no longer way from a node to its owner.
_MOST_REDIRECTS = 5


class KeyCommand(NamedTuple):
    """A command and the key that it concerns."""

    key: str | bytes
    command: Command


def cluster_client(settings: Settings) -> redis.RedisCluster:
    """Like `client`, for all of the Redis Cluster that the server of REDIS_URL belongs to; it asks that server at once.

    Raises RedisUnavailable.
    """
    try:
        with translated_cluster_errors():
            return redis.RedisCluster.from_url(
                settings.redis_dsn.get_secret_value(),
                protocol=2,
                decode_responses=False,
                socket_timeout=settings.redis_timeout_seconds,
                socket_connect_timeout=settings.connect_timeout_seconds,
                retry=Retry(NoBackoff(), 0),
            )
    except (redis.RedisError, OSError) as error:
        raise RedisUnavailable(f"Redis Cluster: one of its servers does not answer: {error}") from None


def primaries(cluster: redis.RedisCluster) -> list[redis.Redis]:
    """A pooled client of each primary that owns slots."""
    return [node.redis_connection for node in cluster.get_primaries()]


@contextmanager
def translated_cluster_errors() -> Iterator[None]:
    """Raises RedisUnavailable when a cluster cannot be read; redis-py's error for that is no RedisError."""
    try:
        yield
    except RedisClusterException as error:
        raise RedisUnavailable(f"Redis Cluster: {error}") from None


def send_to_owners(client: redis.RedisCluster, commands: Sequence[KeyCommand]) -> list[Any]:
    """One answer per command, errors among them: all are sent at once, and again only those whose slot has moved.

    `ClusterPipeline.execute` would also send again what a lost connection may have carried out, ask a node for the keys of
    each script, and fail on a move to a primary that had no slots before. Raises redis.RedisError or RedisClusterException
    when nothing was sent.
    """
    queued = [
        PipelineCommand(command, {"target_nodes": client.get_node_from_key(key)}, number)
        for number, (key, command) in enumerate(commands)
    ]
    pipeline = client.pipeline()
    answers: list[Any] = pipeline.send_cluster_commands(queued, raise_on_error=False, allow_redirections=False)
    return [_followed(client, answer, one.command) for answer, one in zip(answers, commands, strict=True)]


async def send_to_owners_async(client: redis.asyncio.RedisCluster, commands: Sequence[KeyCommand]) -> list[Any]:
    """As `send_to_owners`."""
    await client.initialize()
    pipeline = client.pipeline()
    for key, command in commands:
        pipeline.execute_command(*command, target_nodes=client.get_node_from_key(key))  # type: ignore[arg-type]  # bytes do
    answers = await pipeline.execute(raise_on_error=False, allow_redirections=False)
    return [await _followed_async(client, answer, one.command) for answer, one in zip(answers, commands, strict=True)]


class ClusterReader:
    """All primaries of a Redis Cluster for reading, with the methods of a PinnedConnection but no promise of a barrier."""

    def __init__(self, cluster: redis.RedisCluster) -> None:
        self._cluster = cluster
        self.primaries = [PinnedConnection(primary) for primary in primaries(cluster)]

    def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Each command goes to the owner of its key, wherever that moves; a command's own error is returned, not raised."""
        return send_to_owners(self._cluster, [_with_key(command) for command in commands])

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Keys of all primaries that match, page by page; one whose slot moves meanwhile may come twice, or not at all."""
        for primary in self.primaries:
            yield from primary.scan(pattern, count)

    def now_ms(self) -> int:
        """One primary's clock in epoch milliseconds."""
        return self.primaries[0].now_ms()

    def close(self) -> None:
        for primary in self.primaries:
            primary.close()


def _with_key(command: Command) -> KeyCommand:
    """redis-py takes the command's name as text only."""
    name, *arguments = (command[0].decode() if isinstance(command[0], bytes) else command[0], *command[1:])
    key = arguments[1] if name == "MEMORY" else arguments[0]
    return KeyCommand(key if isinstance(key, bytes) else str(key), (name, *arguments))


def _followed(client: redis.RedisCluster, answer: Any, command: Command) -> Any:
    """The answer of the node that an answer points to; the command was not carried out by the one that says so."""
    for _ in range(_MOST_REDIRECTS):
        if not isinstance(answer, AskError):
            break
        known = client.get_node(answer.host, answer.port)
        if isinstance(answer, MovedError):
            client.nodes_manager.move_slot(answer)
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
        if isinstance(answer, MovedError):
            await client.nodes_manager.move_slot(answer)
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

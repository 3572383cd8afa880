"""A client for a whole Redis Cluster or its only server, and a reader of all primaries of a cluster."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from usage_recorder.slot_owners import KeyCommand, send_to_owners

from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import Command, PinnedConnection, RedisUnavailable, client
from usage_pipeline.storage.servers.redis_facts import is_cluster_node

_log = logging.getLogger(__name__)
# What reads and writes single keys does not care which of both it has.
AnyRedis = redis.Redis | redis.RedisCluster


def cluster_client(settings: Settings) -> redis.RedisCluster:
    """Like `client`, for the whole Redis Cluster of the server in REDIS_URL. It asks that server at once.

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


@contextmanager
def server_or_cluster(settings: Settings) -> Iterator[AnyRedis]:
    """A pooled client of the server in REDIS_URL, or of the whole Redis Cluster that it belongs to. It asks the server at once.

    Raises redis.RedisError, RedisUnavailable or OSError.
    """
    with ExitStack() as stack:
        named = stack.enter_context(closing(client(settings)))
        yield stack.enter_context(closing(cluster_client(settings))) if is_cluster_node(named) else named


def send_all(client: AnyRedis, commands: Sequence[KeyCommand]) -> None:
    """Sends commands on single keys in one round trip to each server. Raises the first error, when all were sent."""
    if isinstance(client, redis.RedisCluster):
        answers = send_to_owners(client, commands)
    else:
        pipeline = client.pipeline(transaction=False)
        for _, command in commands:
            pipeline.execute_command(*command)
        answers = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def published_names(client: AnyRedis, key: str) -> set[bytes]:
    """The members of a set in which we note what we published, as bytes, whatever they are.

    A value of another type, which somebody else wrote, is deleted, since it would keep us from publishing for good.
    """
    try:
        return {member.encode() if isinstance(member, str) else member for member in client.smembers(key)}
    except redis.ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        _log.warning("%s was no set: it is deleted and written anew", key)
        client.unlink(key)
        return set()


def primaries(pooled: AnyRedis) -> list[redis.Redis]:
    """A pooled client of each primary that owns slots, or of the only server if it is not a cluster."""
    if isinstance(pooled, redis.Redis):
        return [pooled]
    return [node.redis_connection for node in pooled.get_primaries()]


@contextmanager
def translated_cluster_errors() -> Iterator[None]:
    """Raises RedisUnavailable when a cluster cannot be read. (redis-py's error for that is not a RedisError.)"""
    try:
        yield
    except RedisClusterException as error:
        raise RedisUnavailable(f"Redis Cluster: {error}") from None


class ClusterReader:
    """All primaries of a Redis Cluster for reading. It has the methods of a PinnedConnection, but may change connections."""

    def __init__(self, cluster: redis.RedisCluster) -> None:
        self._cluster = cluster
        self.primaries = [PinnedConnection(primary) for primary in primaries(cluster)]

    def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Sends each command to the owner of its key, wherever that is now. An error of a command is returned, not raised."""
        return send_to_owners(self._cluster, [_with_key(command) for command in commands])

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Keys of all primaries that match, page by page. A key whose slot moves meanwhile may come twice, or not at all."""
        for primary in self.primaries:
            yield from primary.scan(pattern, count)

    def now_ms(self) -> int:
        """The clock of one primary in epoch milliseconds."""
        return self.primaries[0].now_ms()

    def close(self) -> None:
        for primary in self.primaries:
            primary.close()


def _with_key(command: Command) -> KeyCommand:
    """The command with its name as text, which redis-py needs."""
    name, *arguments = (command[0].decode() if isinstance(command[0], bytes) else command[0], *command[1:])
    key = arguments[1] if name == "MEMORY" else arguments[0]
    return KeyCommand(key if isinstance(key, bytes) else str(key), (name, *arguments))

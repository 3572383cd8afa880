"""Which versions of PostgreSQL and Redis we support, and which ones there are. `make matrix` runs tests on each of them."""

from dataclasses import dataclass

import psycopg
import redis

from usage_pipeline.settings import Settings
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline.storage.redis_cluster import primaries, server_or_cluster, translated_cluster_errors
from usage_pipeline.storage.servers.redis_facts import AnyServer, read_hello, read_info
from usage_pipeline.storage.servers.supported import postgres_version_name


@dataclass(frozen=True, slots=True)
class Server:
    """A server: PostgreSQL, Redis or Valkey. `version` is None where it does not tell."""

    name: str
    version: str | None


def postgres_server(connection: psycopg.Connection) -> Server:
    return Server("PostgreSQL", postgres_version_name(connection.info.server_version))


def redis_server(server: AnyServer) -> Server:
    """By INFO, or by HELLO where INFO is refused."""
    info, hello = read_info(server, "server"), {}
    if not info:
        hello = read_hello(server)
    if "valkey_version" in info or hello.get("server") == "valkey":
        return Server("Valkey", info.get("valkey_version") or hello.get("version"))
    return Server("Redis", info.get("redis_version") or hello.get("version"))


def read_servers(settings: Settings, connection: psycopg.Connection) -> list[Server]:
    """PostgreSQL, and each server of Redis (of a cluster: its primaries). One that does not answer has no version.

    It waits at most `redis_timeout_seconds` for an answer of Redis. Raises psycopg.Error.
    """
    found = [postgres_server(connection)]
    try:
        with translated_cluster_errors(), server_or_cluster(settings) as pooled:
            found += [redis_server(server) for server in primaries(pooled)]
    except (redis.RedisError, RedisUnavailable, OSError):
        found.append(Server("Redis", None))
    return found

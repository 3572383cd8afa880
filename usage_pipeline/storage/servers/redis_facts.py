"""What a Redis server tells of itself, also to a user who may ask little (ACL), and through proxies that know few commands."""

from collections.abc import Mapping

import redis

from usage_pipeline.storage.redis import PinnedConnection

AnyServer = redis.Redis | PinnedConnection


def read_info(server: AnyServer, section: str) -> dict[str, str]:
    """A section of INFO, or what it says unasked (`default`). Empty where the server refuses it."""
    try:
        if isinstance(server, redis.Redis):
            return {name: str(value) for name, value in server.info(section).items()}
        return parse_info(server.call("INFO", section))
    except redis.ResponseError:
        return {}


def read_hello(server: AnyServer) -> dict[str, str]:
    """What HELLO answers: version, mode (standalone, cluster), role. No ACL forbids it; only proxies may. Empty then."""
    try:
        answer = server.execute_command("HELLO") if isinstance(server, redis.Redis) else server.call("HELLO")
    except redis.ResponseError:
        return {}
    pairs = answer.items() if isinstance(answer, Mapping) else zip(answer[::2], answer[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def is_cluster_node(server: AnyServer) -> bool:
    """Whether the server says that it is part of a Redis Cluster."""
    info = read_info(server, "cluster")
    return info["cluster_enabled"] == "1" if "cluster_enabled" in info else read_hello(server).get("mode") == "cluster"


def parse_info(text: bytes) -> dict[str, str]:
    """An answer of INFO."""
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, _, value in pairs}


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

"""Which server of Redis it is, and its version. `make matrix` runs tests on those that we support."""

from dataclasses import dataclass

from usage_pipeline.storage.servers.redis_facts import AnyServer, read_hello, read_info


@dataclass(frozen=True, slots=True)
class Server:
    """Redis or Valkey. `version` is None where it does not tell."""

    name: str
    version: str | None


def redis_server(server: AnyServer) -> Server:
    """By INFO, or by HELLO where INFO is refused."""
    info, hello = read_info(server, "server"), {}
    if not info:
        hello = read_hello(server)
    if "valkey_version" in info or hello.get("server") == "valkey":
        return Server("Valkey", info.get("valkey_version") or hello.get("version"))
    return Server("Redis", info.get("redis_version") or hello.get("version"))

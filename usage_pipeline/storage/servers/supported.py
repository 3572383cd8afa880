"""The oldest versions of the servers that we support, and the newest ones that we have tried (contracts §13). Pure."""

import psycopg

OLDEST_POSTGRES, NEWEST_POSTGRES = 14, 18
OLDEST_REDIS = (6, 2)


class UnsupportedServer(psycopg.OperationalError):
    """A server that is older than those that we support. The message is one line that says which are."""


def expect_supported_postgres(server_version: int) -> None:
    """Raises UnsupportedServer."""
    if fault := postgres_fault(server_version):
        raise UnsupportedServer(fault)


def postgres_fault(server_version: int) -> str | None:
    """What is wrong with a version as libpq writes it (180004 is 18.4), or None. A newer one than we know is welcome."""
    if server_version >= OLDEST_POSTGRES * 10_000:
        return None
    came = postgres_version_name(server_version)
    return f"expected PostgreSQL {OLDEST_POSTGRES} or newer, came {came}; upgrade the server (docs/operations.md)"


def is_untried_postgres(server_version: int) -> bool:
    return server_version >= (NEWEST_POSTGRES + 1) * 10_000


def postgres_version_name(server_version: int) -> str:
    major, rest = divmod(server_version, 10_000)
    # Before 10 the second number belonged to the version.
    return f"{major}.{rest}" if major >= 10 else f"{major}.{rest // 100}.{rest % 100}"


def redis_fault(version: tuple[int, ...]) -> str | None:
    """What is wrong with a version of Redis (Valkey says which one it is like), or None; () is one that was not told."""
    if not version or version >= OLDEST_REDIS:
        return None
    wanted, came = (".".join(map(str, numbers)) for numbers in (OLDEST_REDIS, version))
    return f"expected Redis {wanted} or newer, or Valkey, came Redis {came}; upgrade the server (docs/operations.md)"

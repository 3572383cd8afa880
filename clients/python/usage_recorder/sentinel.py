"""Pools of connections by URL: to one server, or to the primary that Redis Sentinel names, also after a fail-over.

`redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB?PARAMETER=VALUE`: hosts of sentinels, the name that they know the
primary by, and what the server itself asks for. `rediss+sentinel://` speaks TLS with both. Parameters that begin with
`sentinel_` are for the sentinels: `sentinel_username`, `sentinel_password`, `sentinel_tls=true|false`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis

if TYPE_CHECKING:
    import redis.asyncio

SCHEMES = ("redis+sentinel://", "rediss+sentinel://")
_PORT = 26379
_OURS = ("sentinel_username", "sentinel_password", "sentinel_tls")
# Of the options of a pool those that a connection to a sentinel has, too.
_FOR_BOTH = ("socket_timeout", "socket_connect_timeout", "retry", "protocol")
_EXPECTED = (
    "expected redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB, the name of the primary among the sentinels, "
    "came another form"
)


@dataclass(frozen=True)
class SentinelUrl:
    """The sentinels, the name of the primary, and URLs with the options of the servers and of a sentinel."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    server_url: str = field(repr=False)
    sentinel_url: str = field(repr=False)


def is_sentinel(url: str) -> bool:
    return url.startswith(SCHEMES)


def read(url: str) -> SentinelUrl:
    """The parts of the URL. Raises ValueError, which repeats nothing of it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    user, at, places = parts.netloc.rpartition("@")
    names = [unquote(name) for name in parts.path.strip("/").split("/")]
    query = parse_qsl(parts.query, keep_blank_values=True)
    ours = dict(pair for pair in query if pair[0].startswith("sentinel_"))
    is_read = names[0] and len(names) <= 2 and (len(names) == 1 or re.fullmatch("[0-9]{1,5}", names[1]))
    if not is_read or parts.fragment or not set(ours) <= {*_OURS} or not is_sentinel(url):
        raise ValueError(_EXPECTED)
    scheme = parts.scheme.partition("+")[0]
    tls = ours.get("sentinel_tls", "true" if scheme == "rediss" else "false").lower()
    if tls not in ("true", "false"):
        raise ValueError("expected sentinel_tls=true or sentinel_tls=false, came another value")
    rest = [pair for pair in query if pair[0] not in ours]
    database = names[1] if len(names) == 2 else "0"
    server_url = f"{scheme}://{user}{at}host/{database}?{urlencode(rest)}"
    about_tls = [pair for pair in rest if pair[0].startswith("ssl_")] if tls == "true" else []
    login = [(name, ours[f"sentinel_{name}"]) for name in ("username", "password") if f"sentinel_{name}" in ours]
    sentinel_url = f"{'rediss' if tls == 'true' else 'redis'}://host?{urlencode([*login, *about_tls])}"
    return SentinelUrl(tuple(map(_place, places.split(","))), names[0], server_url, sentinel_url)


def pool(url: str, *, is_blocking: bool = False, **options: Any) -> redis.ConnectionPool:
    """A pool of connections by URL, whose parameters override `options`. It sends nothing yet.

    Callers of a blocking one wait for a free connection, for `timeout` seconds. Raises ValueError for an unreadable URL.
    """
    kind = redis.BlockingConnectionPool if is_blocking else redis.ConnectionPool
    if not is_sentinel(url):
        return kind.from_url(url, **options)
    from redis.connection import parse_url
    from redis.sentinel import Sentinel, SentinelConnectionPool

    asked = read(url)

    class Pool(SentinelConnectionPool, kind):  # type: ignore[valid-type, misc]  # one of two
        """Asks the sentinels whenever it connects."""

    known, known_by_sentinels = parse_url(asked.server_url), parse_url(asked.sentinel_url)
    sentinels = Sentinel(asked.sentinels, sentinel_kwargs=_of_both(options) | _options(known_by_sentinels))
    made: redis.ConnectionPool = Pool(asked.service, sentinels, **options | _options(known))  # type: ignore[no-untyped-call]
    return made


def async_pool(url: str, *, is_blocking: bool = False, **options: Any) -> redis.asyncio.ConnectionPool:
    """As `pool`, for asyncio."""
    import redis.asyncio

    kind = redis.asyncio.BlockingConnectionPool if is_blocking else redis.asyncio.ConnectionPool
    if not is_sentinel(url):
        return kind.from_url(url, **options)
    from redis.asyncio.connection import parse_url
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

    asked = read(url)

    class Pool(SentinelConnectionPool, kind):  # type: ignore[valid-type, misc]  # one of two
        """Asks the sentinels whenever it connects."""

    known, known_by_sentinels = parse_url(asked.server_url), parse_url(asked.sentinel_url)
    sentinels = Sentinel(asked.sentinels, sentinel_kwargs=_of_both(options) | _options(known_by_sentinels))
    made: redis.asyncio.ConnectionPool = Pool(asked.service, sentinels, **options | _options(known))  # type: ignore[no-untyped-call]
    return made


def _of_both(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _FOR_BOTH if name in options}


def _options(known: Mapping[str, Any]) -> dict[str, Any]:
    """What the client of Redis has read from a URL, without an address."""
    found = {name: value for name, value in known.items() if name not in ("host", "port", "connection_class")}
    return {**found, "ssl": True} if "connection_class" in known else found


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    host = unquote(host.strip("[]"))
    if not host or not re.fullmatch("[0-9]{0,5}", port) or not 0 <= int(port or _PORT) <= 65_535:
        raise ValueError("expected a host with a port from 1 to 65535 for each sentinel, came another text")
    return host, int(port or _PORT)

"""Faults of the URLs of PostgreSQL and Redis, and passwords in URLs. Pure. No text here repeats any part of a URL.

A client that reads a URL otherwise than it was meant takes a part of the password for a host, a port or a parameter, and its
errors name those. So a URL is read here first, by the client's own rules, and refused where they leave a doubt.
"""

import re
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

_HOW_TO_WRITE = "if that is a part of the password, write % / ? # @ : [ ] in it as %25 %2F %3F %23 %40 %3A %5B %5D"
_UNFINISHED_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_PORT = re.compile("[0-9]{1,5}")
_HOST_NAME = re.compile(r"[^/?#@:\[\]\\%]*")
# As in postgresql://host?password=..., where libpq takes all before an @ for the user.
_PARAMETER = re.compile("[?&][a-z_]+=")


def postgres_url_fault(url: str) -> str | None:
    """What is wrong with a `postgresql://` URL for libpq, or None."""
    rest = url.partition("://")[2]
    authority, slash, path_and_query = rest.partition("/")
    user, at, _ = authority.rpartition("@")
    if fault := _text_fault(url):
        return fault
    if _UNFINISHED_PERCENT.search(url):
        return f"expected two hexadecimal digits after each %, came another text; {_HOW_TO_WRITE}"
    if "@" in user or (slash and "@" in path_and_query.partition("?")[0]):
        return f"expected one @, before the host, came another one; {_HOW_TO_WRITE}"
    if at and _PARAMETER.search(user):
        return "expected parameters after the host, came one before an @; write an @ in a parameter as %40"
    read = _read_by_libpq(url)
    if read is None:
        return f"expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE, came another form; {_HOW_TO_WRITE}"
    if not all(_is_a_port(port) for port in read.get("port", "").split(",")):
        return f"expected ports from 1 to 65535, came another text; {_HOW_TO_WRITE}"
    hosts = read.get("host", "").split(",") + read.get("hostaddr", "").split(",")
    if not all(_is_a_host(host) or host.startswith(("/", "@")) for host in hosts):
        return f"expected names or addresses of hosts, or the folder of a socket, came another text; {_HOW_TO_WRITE}"
    return None


def dagster_storage_url_fault(url: str) -> str | None:
    """As `postgres_url_fault`, for a URL that SQLAlchemy reads, too: it takes the first @ for the end of the password."""
    if fault := postgres_url_fault(url):
        return fault
    is_in_a_parameter = "@" in url.partition("://")[2].partition("/")[2]
    return "expected one @, before the host, came one in a parameter; write it as %40" if is_in_a_parameter else None


def redis_url_fault(url: str) -> str | None:
    """What is wrong with a `redis://`, `rediss://` or `unix://` URL for redis-py, or None."""
    if fault := _text_fault(url):
        return fault
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"expected [ and ] around an IPv6 address only, and no look-alike of / ? # @ :, came another; {_HOW_TO_WRITE}"
    if "#" in url:
        return f"expected no #, came one; {_HOW_TO_WRITE}"
    user, _, place = parts.netloc.rpartition("@")
    if "@" in user or "@" in parts.path:
        return f"expected one @, before the host, came another one; {_HOW_TO_WRITE}"
    host, port = _parted(place)
    if port is None or not _is_a_port(port):
        return f"expected a port from 1 to 65535 after the host, came another text; {_HOW_TO_WRITE}"
    if not _is_a_host(host):
        return f"expected the name or the address of a host, came another text; {_HOW_TO_WRITE}"
    # redis-py leaves out what has no value, such as the rest of a password after a ?.
    if parts.query and not all(re.fullmatch("[^=]+=.+", parameter) for parameter in parts.query.split("&")):
        return f"expected parameters NAME=VALUE after the ?, came another text; {_HOW_TO_WRITE}"
    if not _is_known_to_redis_py(url):
        return f"expected parameters that the client of Redis knows, came another one or a wrong value; {_HOW_TO_WRITE}"
    return None


def sentinel_url_fault(url: str) -> str | None:
    """What is wrong with a `redis+sentinel://` URL, or None."""
    from usage_recorder import sentinel

    if fault := _text_fault(url):
        return fault
    if "#" in url:
        return f"expected no #, came one; {_HOW_TO_WRITE}"
    user, _, places = url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")
    if "@" in user or "@" in url.partition("?")[0].replace(f"{user}@", "", 1):
        return f"expected one @, before the hosts, came another one; {_HOW_TO_WRITE}"
    if not all(is_a_place(place) for place in places.split(",")):
        return f"expected HOST:PORT of each sentinel, with a comma between two, came another text; {_HOW_TO_WRITE}"
    try:
        asked = sentinel.read(url)
    except ValueError as error:
        return str(error)
    return redis_url_fault(asked.server_url) or redis_url_fault(asked.sentinel_url)


def is_a_place(text: str) -> bool:
    """Whether a text is a host with or without a port, and without a user."""
    host, port = _parted(text)
    return bool(host) and port is not None and _is_a_port(port) and _is_a_host(host)


def is_a_host(text: str) -> bool:
    """Whether a text is a host alone: a name, an address, or an IPv6 address between [ and ]."""
    host, port = _parted(text)
    return bool(host) and not port and "%" not in text and _text_fault(text) is None and _is_a_host(host)


def without_password(text: str, url: str) -> str:
    """A text, such as an error of fsspec, without the password that the URL holds between `:` and `@`."""
    password = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    for written in (password, unquote(password)):
        text = text.replace(written, "…") if written else text
    return text


def _text_fault(url: str) -> str | None:
    """Python's urlsplit leaves out line breaks and tabs; libpq refuses spaces, and shows what is around them."""
    if not url.isprintable() or any(character.isspace() for character in url):
        return "expected no space, line break or control character, came one; write it percent-encoded, a space as %20"
    return None


def _read_by_libpq(url: str) -> dict[str, str] | None:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        read = conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError):
        return None
    return {name: str(value) for name, value in read.items()}


def _is_known_to_redis_py(url: str) -> bool:
    """redis-py passes parameters on to its connection, which says which ones it has. A new connection does not connect yet."""
    import redis

    try:
        pool = redis.ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, redis.RedisError):
        return False
    return True


def _parted(place: str) -> tuple[str, str | None]:
    """Host and port of `host:port`, empty where there is none. The port is None when something else follows a bracket."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest[1:] if rest[:1] in ("", ":") else None
    host, _, port = place.partition(":")
    return host, port


def _is_a_port(text: str) -> bool:
    return not text or (_PORT.fullmatch(text) is not None and 1 <= int(text) <= 65_535)


def _is_a_host(text: str) -> bool:
    if _HOST_NAME.fullmatch(unquote(text)):
        return True
    try:
        return bool(ip_address(text.partition("%")[0]))
    except ValueError:
        return False

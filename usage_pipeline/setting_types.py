"""Types for settings with a rule. Pure. A value that breaks its rule raises a ValueError that says what was expected."""

import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal, get_args, get_origin
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from usage_recorder import sentinel

from usage_pipeline.server_urls import (
    dagster_storage_url_fault,
    is_a_host,
    is_a_place,
    postgres_url_fault,
    redis_url_fault,
    sentinel_url_fault,
)
from usage_pipeline.values import Malformed, numbers

# No counter and no issue of anybody is older.
FIRST_START = date(1990, 1, 1)
# The external API numbers the posts. Clients hold the number in 32 bits.
MAX_POST_ID = 2**31 - 1
MAX_POSTS = 1_000
# Five fields of numbers, ranges, lists, steps and English names: the daemon and CronSim read these in the same way.
_CRON = re.compile(r"([0-9*,/-]|[A-Za-z]{3})+( +([0-9*,/-]|[A-Za-z]{3})+){4}")
# The largest step of minutes, hours, days, months, days of the week.
_STEPS = (59, 23, 30, 11, 6)
# An origin as browsers send it: lower case, no path, no slash at the end.
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,100}")
# The cost is limited: each try of a stranger takes 128 * r * 2**ln bytes.
_SCRYPT_HASH = re.compile(r"\$scrypt\$ln=1[0-7],r=8,p=[1-9]\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}")
# What can be no password: a number, perhaps with its unit, or letters alone. Nothing else is repeated.
_HARMLESS = re.compile(
    r"[+-]?[0-9][0-9_.,]{0,18}(e[+-]?[0-9]{1,3})?[A-Za-z%]{0,2}|[A-Za-z]{1,10}|[0-9]{4}-[0-9]{2}-[0-9]{2}"
)
_ANY_URL = re.compile(r"[A-Za-z][A-Za-z0-9]*s?://\S+")
_LEAST_SECRET_CHARACTERS = 16
# Each is stored for each day; and names are as long as those of events.
_MOST_TAGS, _TAG_CHARACTERS = 5, 100
_MOST_ATTRIBUTE_NAMES, _ATTRIBUTE_CHARACTERS = 20, 200
_EXPECTED_A_ZONE = "expected an IANA time zone such as UTC or Europe/Vienna"
# The default of USAGE_START_DATE. An earlier one is checked there.
_NO_DATA_BEFORE = date(2025, 1, 1)
# Rules of clocks repeat from year to year; files of zones end with 2037.
_LAST_YEAR_OF_CHANGES = 2038
_AN_HOUR, _A_WEEK = timedelta(hours=1), timedelta(days=7)
_BEFORE_A_URL = re.compile(r",(?=\s*(?:[A-Za-z][A-Za-z0-9]*://|$))")


def _is_a_time_zone(name: str) -> str:
    try:
        zone = ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(_EXPECTED_A_ZONE) from error
    # They have the form of a zone, and mean another one on another machine, none, or seconds that PostgreSQL does not count.
    if name in ("Factory", "localtime", "posixrules") or name.startswith(("right/", "posix/")):
        raise ValueError(f"{_EXPECTED_A_ZONE}; {name.partition('/')[0]} is not one that means the same everywhere")
    if moved := odd_change(zone, _NO_DATA_BEFORE):
        raise ValueError(
            f"expected a time zone whose clocks move by whole hours, came one that moves by less on {moved}: "
            "hours would overlap"
        )
    return name


@cache
def odd_change(zone: ZoneInfo, since: date) -> date | None:
    """The first day from `since` to 2037 on which the clocks of a zone move by a part of an hour, to the week; or None."""
    at = datetime(since.year, since.month, since.day, tzinfo=UTC)
    offset = at.astimezone(zone).utcoffset()
    while at.year < _LAST_YEAR_OF_CHANGES:
        at += _A_WEEK
        before, offset = offset, at.astimezone(zone).utcoffset()
        if before is not None and offset is not None and (offset - before) % _AN_HOUR:
            return at.date()
    return None


def _is_a_cron_expression(expression: str) -> str:
    try:
        # Python reads a step that is larger than its field, and Dagster takes another one in its place.
        steps = [re.findall(r"/([0-9]+)", field) for field in expression.split(" ") if field]
        is_sound = all(1 <= int(step) <= most for most, found in zip(_STEPS, steps, strict=False) for step in found)
        if not _CRON.fullmatch(expression) or not is_sound:
            raise CronSimError
        CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:
        raise ValueError("expected a cron expression of five fields such as 0 3 * * *") from None
    return expression


def _is_a_postgresql_url(url: SecretStr) -> SecretStr:
    return _without_a_driver(url, postgres_url_fault)


def _is_a_dagster_storage_url(url: SecretStr) -> SecretStr:
    return _without_a_driver(url, dagster_storage_url_fault)


def _without_a_driver(url: SecretStr, fault_of: Callable[[str], str | None]) -> SecretStr:
    """The URL for libpq, to which the driver of SQLAlchemy (`postgresql+psycopg://`) says nothing."""
    scheme, separator, rest = url.get_secret_value().strip().partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("expected a URL that begins with postgresql://")
    plain = f"postgresql://{rest}"
    if fault := fault_of(plain):
        raise ValueError(fault)
    return SecretStr(plain)


def _or_none(text: object) -> object:
    """As compose passes on a variable that is not set."""
    return None if isinstance(text, str) and not text.strip() else text


def _is_a_command(command: SecretStr | None) -> SecretStr | None:
    try:
        if command is None or shlex.split(command.get_secret_value()):
            return command
    except ValueError:
        pass
    raise ValueError("expected a program and its arguments, with every quotation mark closed, came another text")


def _is_a_redis_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value().strip()
    if not text.startswith(("redis://", "rediss://", "unix://", *sentinel.SCHEMES)):
        raise ValueError("expected a URL that begins with redis://, rediss://, unix:// or redis+sentinel://")
    if fault := (sentinel_url_fault if sentinel.is_sentinel(text) else redis_url_fault)(text):
        raise ValueError(fault)
    return SecretStr(text)


def _is_a_start(value: object) -> object:
    """A day YYYY-MM-DD. pydantic also reads seconds since 1970, and Python 20240101 and 2024-W01-1."""
    found = None
    if isinstance(value, str):
        with suppress(ValueError):
            found = date.fromisoformat(value)
        if found is None or found.isoformat() != value:
            raise ValueError(f"expected a day YYYY-MM-DD, came {_shown(value)}")
    elif isinstance(value, date) and not isinstance(value, datetime):
        found = value
    if found is None:
        raise ValueError("expected a day YYYY-MM-DD, came another value")
    if found < FIRST_START:
        raise ValueError(f"expected a day from {FIRST_START} on, came {found}")
    return found


def _is_a_header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("expected the name of a header such as X-Forwarded-User, came another text")
    return text


def _is_a_host_name(text: str) -> str:
    if _is_ipv6(text):
        return f"[{text}]"
    if not is_a_host(text):
        # Not repeated: it may be a whole URL with a password.
        raise ValueError("expected the name or the address of a host alone, without a password or a port")
    return text


def _is_ipv6(text: str) -> bool:
    try:
        # A zone, such as that of fe80::1%eth0, cannot stand in a URL of Redis.
        return "%" not in text and ip_address(text).version == 6
    except ValueError:
        return False


def _is_a_plain_http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_plain = parts.scheme in ("http", "https") and is_a_place(parts.netloc)
    except ValueError:
        is_plain = False
    if not is_plain or not url.isprintable() or not url.isascii() or set(url) & set(" @?#\\"):
        raise ValueError("expected an http:// or https:// URL without a password, a query or a fragment")
    return url.rstrip("/")


def _names_posts(text: str) -> str:
    try:
        numbers("EXTERNAL_POST_IDS", text, largest=MAX_POST_ID, most=MAX_POSTS)
    except Malformed as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return text


def _are_urls(urls: SecretStr) -> SecretStr:
    for position, url in enumerate(split_urls(urls.get_secret_value()), start=1):
        if not _ANY_URL.fullmatch(url):
            raise ValueError(f"expected URLs such as slack://… or https://…, came another text as number {position}")
    return urls


def _is_a_known_interval(hours: int) -> int:
    if hours not in (6, 12, 24, 48):
        raise ValueError("expected 6, 12, 24 or 48 hours")
    return hours


def _are_exact_origins(text: str) -> str:
    for origin in listed(text):
        if origin == "*":
            # With *, any page that a user opens by chance could use a token that the user gave it or was tricked into giving.
            raise ValueError("expected exact origins, came *; name each origin whose pages may use tokens")
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                "expected origins such as https://app.example.com or http://localhost:8080, without a path"
            )
    return text


def _are_tag_names(text: str) -> str:
    names = listed(text)
    if len(names) > _MOST_TAGS or len(set(names)) < len(names) or any(len(name) > _TAG_CHARACTERS for name in names):
        raise ValueError(
            f"expected up to {_MOST_TAGS} different names of tags, separated by commas, each of up to {_TAG_CHARACTERS} "
            "characters"
        )
    return text


def _are_host_names(text: str) -> str:
    for name in listed(text):
        if not _HOST_NAME.fullmatch(name):
            raise ValueError("expected names such as dagster.example.com, without a scheme, a port or a path")
    return text


def _is_a_password_hash(text: SecretStr) -> SecretStr:
    if not _SCRYPT_HASH.fullmatch(text.get_secret_value()):
        raise ValueError(
            "expected the output of `usage-pipeline ui-password`, such as $scrypt$ln=15,r=8,p=3$…$…, came another text; "
            "in a shell and in compose's .env it must stand in single quotes, in a Kubernetes secret without them"
        )
    return text


def _are_networks(text: str) -> str:
    for network in listed(text):
        try:
            ip_network(network)
        except ValueError:
            raise ValueError("expected addresses and networks such as 10.0.0.5 or 10.1.0.0/16") from None
    return text


def _divides_an_hour_or_a_day(interval_ms: int) -> int:
    minutes, rest = divmod(interval_ms, 60_000)
    if rest or not (60 % minutes == 0 or (minutes % 60 == 0 and 24 % (minutes // 60) == 0)):
        raise ValueError(
            "expected whole minutes that divide an hour, or whole hours that divide a day, in milliseconds"
        )
    return interval_ms


def _are_attribute_names(text: str) -> str:
    names = listed(text)
    if len(names) > _MOST_ATTRIBUTE_NAMES or any(len(name) > _ATTRIBUTE_CHARACTERS for name in names):
        raise ValueError(
            f"expected up to {_MOST_ATTRIBUTE_NAMES} names of up to {_ATTRIBUTE_CHARACTERS} characters, separated by commas"
        )
    return text


def listed(text: str) -> tuple[str, ...]:
    """The texts between commas, without the spaces around them. Empty ones are left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def split_urls(text: str) -> tuple[str, ...]:
    """Splits URLs only at commas before a scheme: a URL for Apprise may have commas of its own, between recipients."""
    return tuple(part.strip() for part in _BEFORE_A_URL.split(text) if part.strip(" ,"))


def _is_utf_8(secret: SecretStr) -> SecretStr:
    # Bytes of the environment that are none come as lone surrogates, which no client can send.
    if any("\ud800" <= one <= "\udfff" for one in secret.get_secret_value()):
        raise ValueError("expected text in UTF-8, came other bytes")
    return secret


def _is_a_bearer_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if len(text) < _LEAST_SECRET_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"expected at least {_LEAST_SECRET_CHARACTERS} characters of ASCII without spaces, for example of "
            "openssl rand -hex 32"
        )
    return secret


PlainSecret = Annotated[SecretStr, AfterValidator(_is_utf_8)]
TimeZoneName = Annotated[str, AfterValidator(_is_a_time_zone)]
CronExpression = Annotated[str, AfterValidator(_is_a_cron_expression)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_is_a_postgresql_url)]
DagsterStorageUrl = Annotated[SecretStr, AfterValidator(_is_a_dagster_storage_url)]
PasswordCommand = Annotated[SecretStr | None, BeforeValidator(_or_none), AfterValidator(_is_a_command)]
PasswordFile = Annotated[str | None, BeforeValidator(_or_none)]
RedisUrl = Annotated[SecretStr, AfterValidator(_is_a_redis_url)]
HostName = Annotated[str, AfterValidator(_is_a_host_name)]
PlainHttpUrl = Annotated[str, AfterValidator(_is_a_plain_http_url)]
PostNumbers = Annotated[str, AfterValidator(_names_posts)]
AlertUrls = Annotated[SecretStr, AfterValidator(_are_urls)]
ChunkHours = Annotated[int, AfterValidator(_is_a_known_interval)]
BearerSecret = Annotated[SecretStr, AfterValidator(_is_a_bearer_secret)]
ExactOrigins = Annotated[str, AfterValidator(_are_exact_origins)]
AttributeNames = Annotated[str, AfterValidator(_are_attribute_names)]
TagNames = Annotated[str, AfterValidator(_are_tag_names)]
HostNames = Annotated[str, AfterValidator(_are_host_names)]
UiPasswordHash = Annotated[SecretStr, AfterValidator(_is_a_password_hash)]
HeaderName = Annotated[str, AfterValidator(_is_a_header_name)]
StartDate = Annotated[date, BeforeValidator(_is_a_start)]
Networks = Annotated[str, AfterValidator(_are_networks)]
EvenInterval = Annotated[int, AfterValidator(_divides_an_hour_or_a_day)]


def fault_of(found: ErrorDetails, field: FieldInfo | None) -> str:
    """One of pydantic's errors about a setting in our words: what was expected and, where it can be no secret, what came."""
    kind, said = found["type"], found["msg"]
    if kind == "value_error":
        return said.removeprefix("Value error, ")
    limits = found.get("ctx", {})
    if kind == "string_unicode":
        return "expected text in UTF-8, came other bytes"
    if kind in ("too_short", "string_too_short"):
        return f"expected at least {limits['min_length']} characters, came fewer"
    if kind in ("too_long", "string_too_long"):
        return f"expected at most {limits['max_length']:,} characters, came more"
    wanted = None if field is None else _wanted(field)
    if wanted is None:
        return "expected another value"
    return f"expected {wanted}, came {_shown(found['input'])}{_why(field)}"


def _wanted(field: FieldInfo) -> str | None:
    kind = field.annotation
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if kind not in (int, float):
        return None
    least, above, most = (_limit(field, name) for name in ("ge", "gt", "le"))
    bounds = "" if most is None else f" from {least} to {most}" if least else f" above {above} and up to {most}"
    return f"a {'whole ' if kind is int else ''}number{bounds}"


def _limit(field: FieldInfo, name: str) -> str | None:
    found = next((getattr(one, name) for one in field.metadata if hasattr(one, name)), None)
    return None if found is None else f"{found:,}"


def _why(field: FieldInfo | None) -> str:
    more = field.json_schema_extra if field is not None else None
    return f"; {more['why']}" if isinstance(more, dict) and "why" in more else ""


def _shown(value: object) -> str:
    text = str(value)
    if _HARMLESS.fullmatch(text):
        return repr(text)
    return f"a number of {len(text)} digits" if text.isdigit() else "another text"

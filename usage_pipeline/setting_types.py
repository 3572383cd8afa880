"""Types for settings with a rule. Pure. A value that breaks its rule raises a ValueError that says what was expected."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, SecretStr
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

# The external API numbers the posts. Clients hold the number in 32 bits.
MAX_POST_ID = 2**31 - 1
MAX_POSTS = 1_000
# Five fields of numbers, ranges, lists, steps and English names: the daemon and CronSim read these in the same way.
_CRON = re.compile(r"([0-9*,/-]|[A-Za-z]{3})+( +([0-9*,/-]|[A-Za-z]{3})+){4}")
# An origin as browsers send it: lower case, no path, no slash at the end.
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_HEADER_NAME = r"^[A-Za-z0-9-]+$"
# The cost is limited: each try of a stranger takes 128 * r * 2**ln bytes.
_SCRYPT_HASH = re.compile(r"\$scrypt\$ln=1[0-7],r=8,p=[1-9]\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}")
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
        if not _CRON.fullmatch(expression):
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


def _is_a_redis_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value().strip()
    if not text.startswith(("redis://", "rediss://", "unix://", *sentinel.SCHEMES)):
        raise ValueError("expected a URL that begins with redis://, rediss://, unix:// or redis+sentinel://")
    if fault := (sentinel_url_fault if sentinel.is_sentinel(text) else redis_url_fault)(text):
        raise ValueError(fault)
    return SecretStr(text)


def _is_a_host_name(text: str) -> str:
    if not is_a_host(text):
        # Not repeated: it may be a whole URL with a password.
        raise ValueError("expected the name or the address of a host alone, without a password or a port")
    return text


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


def _is_a_bearer_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if len(text) < _LEAST_SECRET_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"expected at least {_LEAST_SECRET_CHARACTERS} characters of ASCII without spaces, for example of "
            "openssl rand -hex 32"
        )
    return secret


TimeZoneName = Annotated[str, AfterValidator(_is_a_time_zone)]
CronExpression = Annotated[str, AfterValidator(_is_a_cron_expression)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_is_a_postgresql_url)]
DagsterStorageUrl = Annotated[SecretStr, AfterValidator(_is_a_dagster_storage_url)]
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
HeaderName = Annotated[str, Field(pattern=_HEADER_NAME)]
Networks = Annotated[str, AfterValidator(_are_networks)]
EvenInterval = Annotated[int, AfterValidator(_divides_an_hour_or_a_day)]

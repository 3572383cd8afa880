"""The families of delta counters (contracts §1.1–1.3): which keys are theirs, and how a key becomes a row. Pure.

The request event queue (§1.5) is in event_queue.py. Merchant counters (§1.4) are in merchants/.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import itemgetter

import msgspec

from usage_pipeline import values
from usage_pipeline.drain.members import (
    HashMembers,
    JsonMembers,
    Parsed,
    RefusedMember,
    Value,
    claim_time,
    decode_members,
)
from usage_pipeline.storage.copy_text import NULL, copy_line
from usage_pipeline.values import UNREADABLE_JSON, Malformed, TimeWindow


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of delta counter, with the names of its members.

    Its keys in Redis begin with `prefix` and end with `suffix`; `read_command` reads one. `parse(key, value, window)` returns
    the row to stage, in the column order of `sql/drain/stage_<name>.sql`, and the members that it refused; it raises
    Malformed for a key that cannot be stored at all. `plain` is a faster way for most values: it returns the same row as a
    line, or None for a value that only `parse` can judge.
    """

    name: str
    prefix: bytes
    suffix: bytes
    redis_type: bytes
    read_command: bytes
    raw_table: str
    members: frozenset[str]
    parse: Callable[[bytes, Value, TimeWindow], Parsed]
    plain: Callable[[bytes, Value, TimeWindow], bytes | None] = lambda *_: None

    @property
    def pattern(self) -> bytes:
        """The pattern of the keys, for SCAN with MATCH."""
        return self.prefix + b"*" + self.suffix

    def owns(self, key: bytes) -> bool:
        """Whether this live name is a key of this family."""
        return key.startswith(self.prefix) and key.endswith(self.suffix)

    def staged_line(self, key: bytes, value: Value, window: TimeWindow) -> tuple[bytes, Sequence[RefusedMember]]:
        """The row to stage as COPY text, and the members that it is without. Raises Malformed."""
        if line := self.plain(key, value, window):
            return line, ()
        parsed = self.parse(key, value, window)
        return copy_line(parsed.row), parsed.refused


def parse_api_key(key: bytes, value: Value, window: TimeWindow) -> Parsed:
    """`apikey:{api_key_id}:metrics` and its hash -> (api_key_id, five counts, last_used_at, extra)."""
    api_key_id = values.identifier("api_key_id", _middle(key, b"apikey:"))
    members = HashMembers(value, window)
    row = (
        api_key_id,
        members.count("total_requests"),
        members.count("successful_requests"),
        members.count("failed_requests"),
        members.count("total_file_size"),
        members.count("total_files_uploaded"),
        members.time("last_used_at"),
        members.unknown(),
    )
    return Parsed(row, members.refused())


_API_KEY_COLUMNS = (
    b"total_requests",
    b"successful_requests",
    b"failed_requests",
    b"total_file_size",
    b"total_files_uploaded",
    b"last_used_at",
)


_API_KEY_FIELDS = frozenset(_API_KEY_COLUMNS)


def plain_api_key(key: bytes, value: Value, window: TimeWindow) -> bytes | None:
    """The line of `parse_api_key`. None unless the hash has a time and only known fields, and COPY need not escape the id."""
    picked = _picked(_API_KEY_COLUMNS, _API_KEY_FIELDS, 1, value)
    return None if picked is None else _plain_line(_PLAIN_API_KEY, (_middle(key, b"apikey:"), *picked), window)


def parse_provider(key: bytes, value: Value, window: TimeWindow) -> Parsed:
    """`provider:{api_key_id}:{provider}:metrics` and its hash -> (both ids, user_id, two counts, last_used_at, extra)."""
    members = HashMembers(value, window, context=(b"provider", b"last_used_at"))
    api_key_id, provider = _split_provider(_middle(key, b"provider:"), members.text(b"provider"))
    row = (
        values.identifier("api_key_id", api_key_id),
        values.identifier("provider", provider),
        members.take("user_id", lambda content: values.identifier("user_id", content)),
        members.count("upload_count"),
        members.count("total_file_size"),
        members.time("last_used_at"),
        members.unknown(),
    )
    return Parsed(row, members.refused())


_PROVIDER_COLUMNS = (b"upload_count", b"total_file_size", b"user_id", b"provider", b"last_used_at")


_PROVIDER_FIELDS = frozenset(_PROVIDER_COLUMNS)


def plain_provider(key: bytes, value: Value, window: TimeWindow) -> bytes | None:
    """The line of `parse_provider`, or None as in `plain_api_key`. The hash must also have `user_id` and `provider`."""
    picked = _picked(_PROVIDER_COLUMNS, _PROVIDER_FIELDS, 3, value)
    if picked is None:
        return None
    uploads, file_size, user_id, provider, last_used_ms = picked
    api_key_id, separator, named = _middle(key, b"provider:").rpartition(b":")
    if not separator or named != provider:
        return None
    return _plain_line(_PLAIN_PROVIDER, (api_key_id, provider, user_id, uploads, file_size, last_used_ms), window)


class _TokenUsage(msgspec.Struct, rename="camel"):
    usage_count: int
    instance_id: str | None = None
    last_used_at: datetime | None = None


_NONE = msgspec.Raw(b"null")
_decode_token_usage = msgspec.json.Decoder(_TokenUsage).decode
_TOKEN_MEMBERS = frozenset(("usageCount", "instanceId", "lastUsedAt"))
# Stands in the dead letter of another member: it is no second time to be counted.
_NO_USE = {"usageCount": msgspec.Raw(b"0")}


def parse_token(key: bytes, value: Value, window: TimeWindow) -> Parsed:
    """`token_usage:{token_id}:{instance_id}` and its JSON -> (token_id, instance_id, usage_count, last_used_at, extra)."""
    if not isinstance(value, bytes):
        raise Malformed("value: expected a JSON string, came a hash")
    try:
        found = decode_members(value)
        members = JsonMembers(found, ("lastUsedAt", "instanceId"), _NO_USE)
        usage = _token_usage(value, found, members)
    except UNREADABLE_JSON as error:
        came = f"{values.shown(value)}: {values.described(error)}"
        raise Malformed(f"value: expected {{usageCount, lastUsedAt, instanceId}} as JSON, came {came}") from None
    usage_count = members.checked("usageCount", usage.usage_count, _token_count) or 0
    last_used_at = members.checked("lastUsedAt", usage.last_used_at, lambda at: values.moment("lastUsedAt", at, window))
    if last_used_at is None and members.has_refused("lastUsedAt"):
        last_used_at = claim_time(window)
    token_id, instance_id = _split_token(key.removeprefix(b"token_usage:"), usage.instance_id)
    row = (
        values.identifier("token_id", token_id),
        values.identifier("instance_id", instance_id),
        usage_count,
        last_used_at,
        members.unknown(_TOKEN_MEMBERS),
    )
    return Parsed(row, members.refused())


def _token_usage(value: bytes, found: dict[str, msgspec.Raw], members: JsonMembers) -> _TokenUsage:
    """The known members. Raises one of UNREADABLE_JSON if the value has no `usageCount`, or does not say whose usage it is."""
    try:
        return _decode_token_usage(value)
    except UNREADABLE_JSON:
        if "usageCount" not in found:
            raise
        named = msgspec.json.decode(found.get("instanceId", _NONE), type=str | None)
        count = members.decoded("usageCount", "an integer", int)
        return _TokenUsage(count or 0, named, members.decoded("lastUsedAt", "an ISO-8601 time", datetime | None))


def _token_count(count: int) -> int:
    if not 0 <= count <= values.MAX_COUNT:
        raise Malformed(f"usageCount: expected 0 to {values.MAX_COUNT} (bigint), came {count}")
    return count


def _names(columns: tuple[bytes, ...]) -> frozenset[str]:
    return frozenset(column.decode() for column in columns)


API_KEY = Family(
    "api_key",
    b"apikey:",
    b":metrics",
    b"hash",
    b"HGETALL",
    "raw.api_key_deltas",
    _names(_API_KEY_COLUMNS),
    parse_api_key,
    plain_api_key,
)
PROVIDER = Family(
    "provider",
    b"provider:",
    b":metrics",
    b"hash",
    b"HGETALL",
    "raw.provider_deltas",
    _names(_PROVIDER_COLUMNS),
    parse_provider,
    plain_provider,
)
TOKEN = Family("token", b"token_usage:", b"", b"string", b"GET", "raw.token_deltas", _TOKEN_MEMBERS, parse_token)
FAMILIES = (API_KEY, PROVIDER, TOKEN)
BY_NAME = {family.name: family for family in FAMILIES}


# Nearly all hashes are plain: known fields, digits, ids of printable ASCII without a backslash. COPY needs a line anyway, and
# one pattern over that line takes a fifth of the time of a look at each field. What does not match is parsed in full.
_PLAIN_ID = rb"[!-\[\]-~]{1,200}"
_PLAIN_COUNT = rb"(?:0|[1-9][0-9]{0,17})"
_PLAIN_MS = rb"[0-9]{13}"
_PLAIN_API_KEY = re.compile(b"\t".join((_PLAIN_ID, *[_PLAIN_COUNT] * 5, _PLAIN_MS)))
_PLAIN_PROVIDER = re.compile(b"\t".join((*[_PLAIN_ID] * 3, *[_PLAIN_COUNT] * 2, _PLAIN_MS)))


def _picked(
    columns: tuple[bytes, ...], known: frozenset[bytes], required: int, value: Value
) -> tuple[bytes, ...] | None:
    """The values of a hash in the order of the columns; `0` for a missing field.

    None if it is no hash, if it has an unknown field, or if one of the last `required` columns is missing.
    """
    if not isinstance(value, list):
        return None
    fields = tuple(value[::2])
    # Before the cache looks: it must not keep what writers make up, such as a name of 30 MB.
    if not known.issuperset(fields):
        return None
    pick = _picker(columns, required, fields)
    return pick and pick([*value, b"0"])


@lru_cache(maxsize=256)
def _picker(
    columns: tuple[bytes, ...], required: int, fields: tuple[bytes, ...]
) -> Callable[[list[bytes]], tuple[bytes, ...]] | None:
    """Picks the values of hashes with these fields in this order. Most hashes have the same, so this is worked out once."""
    if not set(columns[-required:]) <= set(fields):
        return None
    places = {name: 2 * number + 1 for number, name in enumerate(fields)}
    return itemgetter(*(places.get(column, -1) for column in columns))


def _plain_line(pattern: re.Pattern[bytes], row: tuple[bytes, ...], window: TimeWindow) -> bytes | None:
    """The line of a row that ends with epoch milliseconds. The line has microseconds instead, and NULL as `extra`."""
    line = b"\t".join(row)
    if pattern.fullmatch(line) and window.oldest_ms <= int(row[-1]) <= window.newest_ms:
        return b"%b000\t%b" % (line, NULL)
    return None


def _middle(key: bytes, prefix: bytes) -> bytes:
    return key[len(prefix) : -len(b":metrics")]


def _split_provider(middle: bytes, named: bytes | None) -> tuple[bytes, bytes]:
    """Splits before the text of the `provider` field (§1.2). A hash without that field is split at the last `:`."""
    if named is None:
        api_key_id, separator, provider = middle.rpartition(b":")
        if not separator:
            raise Malformed(
                f"key: expected provider:<api_key_id>:<provider>:metrics, came no provider in {values.shown(middle)}"
            )
        return api_key_id, provider
    if not middle.endswith(b":" + named):
        raise Malformed(f"provider: expected the end of the key's {values.shown(middle)}, came {values.shown(named)}")
    return middle[: -len(named) - 1], named


def _split_token(rest: bytes, named: str | None) -> tuple[bytes, bytes]:
    """Splits before the text of the member `instanceId` (§1.3). A JSON without that member is split at the first `:`."""
    if named is None:
        token_id, separator, instance_id = rest.partition(b":")
        if not separator:
            raise Malformed(f"key: expected token_usage:<token_id>:<instance_id>, came {values.shown(rest)}")
        return token_id, instance_id
    instance = named.encode(errors="surrogatepass")
    if not rest.endswith(b":" + instance):
        raise Malformed(
            f"instanceId: expected the end of the key's {values.shown(rest)}, came {values.shown(instance)}"
        )
    return rest[: -len(instance) - 1], instance

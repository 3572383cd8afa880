"""The values that the steps of the drain pass on: batches, claimed keys, dead letters. No I/O."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple

import hiredis

from usage_pipeline import values
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.members import Value
from usage_pipeline.drain.room import LARGEST_KEY_BYTES
from usage_pipeline.values import Malformed, PossibleTimes, TimeWindow

RawFormat = Literal["string", "hash", "dump"]

# The longest string that Redis allows. A hash or a DUMP may be longer than 1 GB, but PostgreSQL takes no row of 1 GB.
LARGEST_RAW_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class WrongType:
    """The content of a claimed key that has another Redis type than the keys of its family: that type, and the DUMP."""

    redis_type: str
    dump: bytes


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The content of a claimed key that is too large to be read whole: its Redis type, its bytes in Redis, and a part of it.

    The part is the known fields of a hash, or the beginning of a string. None: nothing of it could be read.
    """

    redis_type: str
    size: int
    part: Value | None = None


Content = Value | WrongType | TooLarge
# A key that a batch holds, and its content. It is a tuple, because there is one for every key.
Claimed = tuple[bytes, Content]


class Held(NamedTuple):
    """Claimed keys with their contents, as many as a batch may hold in memory, and those that it has no room for.

    What is `left` is claimed under the same batch id, and not read.
    """

    keys: list[Claimed]
    left: list[bytes]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused key, or a refused queue item (with its position): the reason, and the raw bytes in `raw_format`.

    With a `member`, only that one was refused, and the rest of the key or the item is stored.
    """

    source_key: bytes
    reason: str
    raw: bytes
    raw_format: RawFormat
    position: int | None = None
    member: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a batch: its id, the time of its claim, and the Redis server that it was claimed from.

    `is_uncertain`: the batch may count twice. If a fail-over forgot an earlier claim, the keys of that claim are live again.
    """

    batch_id: str
    claimed_at: datetime
    server: str
    is_uncertain: bool

    @classmethod
    def of_claim(cls, batch_id: str, server: str, *, is_uncertain: bool) -> "Origin":
        """The origin of a batch whose id holds the time of its claim. Raises ValueError for any other id."""
        return cls(batch_id, values.from_ms(claimed_ms(batch_id)), server, is_uncertain)

    def window(self, times: PossibleTimes) -> TimeWindow:
        """The times that can be in this batch."""
        return times.window(round(self.claimed_at.timestamp() * 1000))


@dataclass(slots=True)
class Batch:
    """Keys that were claimed together. Each became a line to stage (COPY text), or a dead letter, or a line and dead letters
    of some of its members.

    `claims` has their contents: PostgreSQL may still refuse a row, and then its dead letter needs them.
    """

    origin: Origin
    keys: list[bytes] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    claims: list[Claimed] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    @property
    def batch_id(self) -> str:
        return self.origin.batch_id

    @property
    def claimed_at(self) -> datetime:
        return self.origin.claimed_at


class Part(NamedTuple):
    """Some items of a page, from position `first` on, and what became of them."""

    batch: Batch
    first: int
    items: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the request event queue, and the number of its items. `parts` reads one after the other: a page of large items
    is never in memory as a whole, and is read anew each time.
    """

    origin: Origin
    items: int
    parts: Callable[[], Iterable[Part]]


def new_batch_id(claimed_ms: int) -> str:
    """The claim time in epoch milliseconds, and 40 random bits: ids sort by time, and no two batches have the same."""
    return f"{claimed_ms:013d}-{secrets.token_hex(5)}"


def claim_of(batch_id: str) -> str:
    """The batch of the claim: a page of the event queue is a batch in the ledger, and all pages of a queue are one claim."""
    return batch_id.partition("/")[0]


def claimed_ms(batch_id: str) -> int:
    """The claim time in a batch id, in epoch milliseconds.

    Raises ValueError if the id does not begin with one.
    """
    milliseconds, separator, _ = batch_id.partition("-")
    if not separator or not milliseconds.isdigit():
        raise ValueError(f"expected a batch id <epoch milliseconds>-<random>, came {batch_id!r}")
    return int(milliseconds)


def parse_batch(family: Family, origin: Origin, claims: list[Claimed], *, times: PossibleTimes) -> Batch:
    """Makes a row of each claimed key of a batch, and dead letters of what is refused. No content of a key makes it fail."""
    window = origin.window(times)
    batch = Batch(origin, claims=claims)
    for key, value in claims:
        batch.keys.append(key)
        try:
            line, refused = family.staged_line(key, _readable(family, value), window)
            if isinstance(value, TooLarge):
                rest = dead_letter(
                    key, replace(value, part=None), f"{_too_large(value)}; its other fields are not kept"
                )
                batch.dead_letters.append(replace(rest, member="other fields"))
            batch.lines.append(line)
            for member in refused:
                batch.dead_letters.append(replace(dead_letter(key, member.raw, member.reason), member=member.member))
        except Malformed as malformed:
            batch.dead_letters.append(dead_letter(key, value, str(malformed)))
    return batch


def _readable(family: Family, value: Content) -> Value:
    """What of a content can become a row. Raises Malformed if nothing can."""
    expected = family.redis_type.decode()
    if isinstance(value, WrongType):
        raise Malformed(f"key: expected a Redis {expected}, came a {value.redis_type}")
    if not isinstance(value, TooLarge):
        return value
    if value.redis_type != expected:
        came = f"came a {value.redis_type} of {value.size} bytes; its content is not kept"
        raise Malformed(f"key: expected a Redis {expected}, {came}")
    if value.part is None or isinstance(value.part, bytes):
        raise Malformed(f"{_too_large(value)}; only the first {len(value.part or b'')} are kept")
    return value.part


def _too_large(value: TooLarge) -> str:
    return f"key: expected at most {LARGEST_KEY_BYTES} bytes, came {value.size}"


def dead_letter(key: bytes, value: Content, reason: str) -> DeadLetter:
    """The dead letter of a key or of a member of it. `raw_value` reads exactly the same value, up to LARGEST_RAW_BYTES."""
    if isinstance(value, TooLarge):
        value = WrongType(value.redis_type, b"") if value.part is None else value.part
    if isinstance(value, bytes):
        return DeadLetter(key, *_cut(reason, value), "string")
    if isinstance(value, WrongType):
        return DeadLetter(key, *_cut(reason, value.dump), "dump")
    kept = _shortest_fields(value)
    if len(kept) < len(value):
        left_out = (len(value) - len(kept)) // 2
        reason += f"; the hash is larger than {LARGEST_RAW_BYTES} bytes, so its {left_out} longest fields are not kept"
    packed = hiredis.pack_command(tuple(kept))  # type: ignore[arg-type]  # its stub means `tuple[..., ...]`
    return DeadLetter(key, reason, packed, "hash")


def raw_value(raw: bytes, raw_format: RawFormat) -> Value | WrongType:
    """The value that a dead letter holds: the inverse of `dead_letter`."""
    if raw_format == "dump":
        return WrongType("key of another type", raw)
    if raw_format == "string":
        return raw
    reader = hiredis.Reader()
    reader.feed(raw)
    fields: list[bytes] = reader.gets()
    return fields


def _cut(reason: str, raw: bytes) -> tuple[str, bytes]:
    if len(raw) <= LARGEST_RAW_BYTES:
        return reason, raw
    return f"{reason}; only the first {LARGEST_RAW_BYTES} of its {len(raw)} bytes are kept", raw[:LARGEST_RAW_BYTES]


def _shortest_fields(fields: Sequence[bytes]) -> Sequence[bytes]:
    """All fields of a hash with their values. If they do not fit, only the shortest ones: counters are short."""
    room = LARGEST_RAW_BYTES - sum(map(_packed_bytes, fields))
    if room >= 0:
        return fields
    pairs = sorted(zip(fields[::2], fields[1::2], strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
    while room < 0:
        room += sum(map(_packed_bytes, pairs.pop()))
    return [text for pair in pairs for text in pair]


def _packed_bytes(text: bytes) -> int:
    """An upper bound of the bytes that RESP needs for a text: `$<length>\\r\\n<text>\\r\\n`."""
    return len(text) + 32

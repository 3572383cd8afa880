"""What travels between the steps of the drain: batches, claimed keys, dead letters. Values only; no I/O."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import hiredis

from usage_pipeline import values
from usage_pipeline.drain.families import Family, Value
from usage_pipeline.values import Malformed, TimeWindow

RawFormat = Literal["string", "hash", "dump"]

# As long as a string of Redis may be. PostgreSQL takes no row of 1 GB, and a hash or a DUMP may be longer than that.
LARGEST_RAW_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class WrongType:
    """A claimed key whose Redis type is not the family's, with its DUMP."""

    redis_type: str
    dump: bytes


# A key that a batch holds, and what it contains. A tuple: there is one for every key.
Claimed = tuple[bytes, Value | WrongType]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused key (or, with a position, a refused queue item): the reason, and its raw bytes in `raw_format`."""

    source_key: bytes
    reason: str
    raw: bytes
    raw_format: RawFormat
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a batch comes from: its id, when it was claimed, from which Redis server.

    `is_uncertain`: that server may show again what another one forgot, so the batch may count twice.
    """

    batch_id: str
    claimed_at: datetime
    server: str
    is_uncertain: bool

    @classmethod
    def of_claim(cls, batch_id: str, server: str, *, is_uncertain: bool) -> "Origin":
        """Of a batch whose id carries the time of its claim. Raises ValueError for any other id."""
        return cls(batch_id, values.from_ms(claimed_ms(batch_id)), server, is_uncertain)

    def window(self, retention_days: int) -> TimeWindow:
        """The timestamps that are believable in this batch."""
        return TimeWindow.around(round(self.claimed_at.timestamp() * 1000), retention_days)


@dataclass(slots=True)
class Batch:
    """Keys claimed together: what each became, a line to stage (COPY text) or a dead letter.

    `claims` is what they contained, for rows that only PostgreSQL finds it has to refuse.
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


def new_batch_id(claimed_ms: int) -> str:
    """Claim time in epoch milliseconds and 40 random bits: ids ascend with time and never meet."""
    return f"{claimed_ms:013d}-{secrets.token_hex(5)}"


def claimed_ms(batch_id: str) -> int:
    """The claim time that a batch id carries, in epoch milliseconds.

    Raises ValueError if the id was not made by `new_batch_id`.
    """
    milliseconds, separator, _ = batch_id.partition("-")
    if not separator or not milliseconds.isdigit():
        raise ValueError(f"expected a batch id <epoch milliseconds>-<random>, came {batch_id!r}")
    return int(milliseconds)


def parse_batch(family: Family, origin: Origin, claims: list[Claimed], *, retention_days: int) -> Batch:
    """Sorts the claimed keys of a batch into rows and dead letters; never fails for one of them."""
    window = origin.window(retention_days)
    batch = Batch(origin, claims=claims)
    for key, value in claims:
        batch.keys.append(key)
        try:
            if isinstance(value, WrongType):
                raise Malformed(f"key: expected a Redis {family.redis_type.decode()}, came a {value.redis_type}")
            batch.lines.append(family.staged_line(key, value, window))
        except Malformed as malformed:
            batch.dead_letters.append(dead_letter(key, value, str(malformed)))
    return batch


def dead_letter(key: bytes, value: Value | WrongType, reason: str) -> DeadLetter:
    """The dead letter of a whole key, in a form that `raw_value` reads back exactly up to LARGEST_RAW_BYTES."""
    if isinstance(value, bytes):
        return DeadLetter(key, *_cut(reason, value), "string")
    if isinstance(value, WrongType):
        return DeadLetter(key, *_cut(reason, value.dump), "dump")
    kept = _shortest_fields(value)
    if len(kept) < len(value):
        left_out = (len(value) - len(kept)) // 2
        reason += f"; its {left_out} longest fields are not kept, since it is larger than {LARGEST_RAW_BYTES} bytes"
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
    """All fields of a hash with their values where they fit, otherwise the shortest: counters are short."""
    room = LARGEST_RAW_BYTES - sum(map(_packed_bytes, fields))
    if room >= 0:
        return fields
    pairs = sorted(zip(fields[::2], fields[1::2], strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
    while room < 0:
        room += sum(map(_packed_bytes, pairs.pop()))
    return [text for pair in pairs for text in pair]


def _packed_bytes(text: bytes) -> int:
    """At most what RESP makes of it: `$<length>\\r\\n<text>\\r\\n`."""
    return len(text) + 32

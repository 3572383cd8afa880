"""What travels between the steps of the drain: batches, claimed keys, dead letters. Values only; no I/O."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import hiredis

from usage_pipeline.counters import values
from usage_pipeline.counters.families import Family, Value
from usage_pipeline.counters.values import Malformed, TimeWindow

RawFormat = Literal["string", "hash", "dump"]


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


@dataclass(slots=True)
class Batch:
    """Keys claimed together: what each became, a line to stage (COPY text) or a dead letter.

    `claims` is what they contained, for rows that only PostgreSQL finds it has to refuse.
    """

    batch_id: str
    claimed_at: datetime
    server: str
    is_uncertain: bool
    keys: list[bytes] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    claims: list[Claimed] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


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


def parse_batch(
    family: Family, batch_id: str, claims: list[Claimed], *, retention_days: int, server: str, is_uncertain: bool
) -> Batch:
    """Sorts the claimed keys of a batch into rows and dead letters; never fails for one of them."""
    at_ms = claimed_ms(batch_id)
    window = TimeWindow.around(at_ms, retention_days)
    batch = Batch(batch_id, values.from_ms(at_ms), server, is_uncertain, claims=claims)
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
    """The dead letter of a whole key, in a form that `raw_value` reads back exactly."""
    if isinstance(value, WrongType):
        return DeadLetter(key, reason, value.dump, "dump")
    if isinstance(value, bytes):
        return DeadLetter(key, reason, value, "string")
    packed = hiredis.pack_command(tuple(value))  # type: ignore[arg-type]  # its stub means `tuple[..., ...]`
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

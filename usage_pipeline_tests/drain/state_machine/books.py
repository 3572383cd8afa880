"""The books that a schedule of drains must keep: what was written, where each part of it is now, and whether that adds up.

A part is one field of one id of one family; a request event's is its id and payload. Read afresh from both servers while
every drainer stands still, by code of its own: the drain's parsers are not asked.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

import hiredis
import psycopg
import redis

CLAIMS = b"usage_pipeline:claim:"
QUEUE = b"event_queue"
FIELDS = {
    "api_key": ("total_requests", "total_file_size"),
    "provider": ("upload_count", "total_file_size"),
    "token": ("usage_count",),
}
# A member of a hash that is no count.
TIME_OF_USE = "last_used_at"
# A key of another type than its family's counts as one of these.
WRONG_TYPE = "wrong type"
_EVENT_PAGE = 3


class Part(NamedTuple):
    """What is counted on its own. An event's field is its payload, "" for an item that is no event."""

    family: str
    name: str
    field: str


Amounts = Counter[Part]


# Redis in one look

_LOOK = """\
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local type, content = redis.call('TYPE', key).ok, ''
  if type == 'hash' then content = redis.call('HGETALL', key)
  elseif type == 'list' then content = redis.call('LRANGE', key, 0, -1)
  elseif type == 'string' then content = redis.call('GET', key) end
  found[#found + 1] = {key, type, content}
end
return found
"""


@dataclass(slots=True)
class InRedis:
    """What waits in Redis. Keys and their amounts: live, and by the batch that claimed them; queues as their items."""

    live: dict[bytes, Amounts] = field(default_factory=dict)
    claimed: dict[tuple[str, bytes], Amounts] = field(default_factory=dict)
    open_batches: dict[str, list[str]] = field(default_factory=dict)
    live_queue: list[bytes] = field(default_factory=list)
    claimed_queues: dict[str, list[bytes]] = field(default_factory=dict)


def look_into_redis(client: redis.Redis) -> InRedis:
    seen = InRedis()
    for key, kind, content in client.eval(_LOOK, 0):
        if key.startswith(CLAIMS):
            batch_id, _, tagged = key.removeprefix(CLAIMS).partition(b":")
            live, batch = _untagged(tagged), batch_id.decode()
            if live == QUEUE:
                seen.claimed_queues[batch] = _items(kind, content)
            else:
                seen.claimed[batch, live] = amounts_of(live, kind, content)
        elif key == QUEUE:
            seen.live_queue = _items(kind, content)
        elif key.startswith(b"usage_pipeline:open:"):
            seen.open_batches[key.decode().rpartition(":")[2]] = [batch.decode() for batch in content[::2]]
        elif not key.startswith(b"usage_pipeline:"):
            seen.live[key] = amounts_of(key, kind, content)
    return seen


def _untagged(tagged: bytes) -> bytes:
    """`{key}`, `{number}=key`, or the key as it is when it has a hash tag of its own: docs/exactly-once.md, drain step 3."""
    if not tagged.startswith(b"{"):
        return tagged
    inner, _, rest = tagged[1:].partition(b"}")
    return rest[1:] if rest else inner


def _items(kind: bytes, content: Any) -> list[bytes]:
    # A queue of another type is one item that no reader understands.
    return list(content) if kind == b"list" else [b"wrong type " + content]


def amounts_of(key: bytes, kind: bytes, content: Any) -> Amounts:
    """What a counter's key holds, malformed or not."""
    family, name = _owner(key)
    if kind != (b"string" if family == "token" else b"hash"):
        return Amounts({Part(family, name, WRONG_TYPE): 1})
    if family == "token":
        # A count that is a text is refused, and still an amount.
        return Amounts({Part(family, name, "usage_count"): int(json.loads(content)["usageCount"])})
    pairs = zip(content[::2], content[1::2], strict=True)
    fields = ((field.decode(errors="backslashreplace"), value) for field, value in pairs)
    return Amounts({Part(family, name, field): int(value) for field, value in fields if field != TIME_OF_USE})


def _owner(key: bytes) -> tuple[str, str]:
    """The family and the id of a key; a provider's id has its provider at the end."""
    kind, _, rest = key.decode().partition(":")
    if kind == "token_usage":
        return "token", rest.rsplit(":", 2)[0]
    return {"apikey": "api_key", "provider": "provider"}[kind], rest.removesuffix(":metrics")


# PostgreSQL in one look

_TOTALS = """
select 'api_key', api_key_id, array[total_requests, total_file_size] from usage.api_keys
union all
select 'provider', api_key_id || ':' || provider, array[upload_count, total_file_size] from usage.provider_usage
union all
select 'token', token_id, array[usage_count] from usage.api_access_tokens
"""
_RAW = """
select usage_date, batch_id, source_key, 'api_key', api_key_id, array[total_requests, total_file_size] from raw.api_key_deltas
union all
select usage_date, batch_id, source_key, 'provider', api_key_id || ':' || provider, array[upload_count, total_file_size]
from raw.provider_deltas
union all
select usage_date, batch_id, source_key, 'token', token_id, array[usage_count] from raw.token_deltas
"""
_EVENTS = "select batch_id, event_id::text, file_size::text from raw.request_events"
_DEAD_LETTERS = """
select dead_letter_id, batch_id, family, source_key, member, raw, raw_format, replayed_at is null from ops.dead_letters
"""
_LEDGER = """
select batch_id, family, released_at is not null, keys, stored_rows, dead_letters, refused_members, duplicates
from ops.sync_batches
"""


class Letter(NamedTuple):
    """An open dead letter, and what it holds."""

    family: str
    key: bytes
    member: str | None
    raw: bytes
    raw_format: str

    @property
    def amounts(self) -> Amounts:
        return _refused(self.key, self.raw, self.raw_format)


class LedgerRow(NamedTuple):
    family: str
    is_released: bool
    keys: int
    stored_rows: int
    dead_letters: int
    refused_members: int
    duplicates: int


class Delta(NamedTuple):
    """A row of a raw table of counters: what one key of one batch adds to a day."""

    family: str
    day: date
    amounts: Amounts


@dataclass(slots=True)
class InPostgres:
    """What is stored, and what was refused. `deltas` and `events` are by batch, and key or event id.

    `returned`: sums of dropped days that are raw rows again.
    """

    totals: Amounts = field(default_factory=Counter)
    deltas: dict[tuple[str, bytes], Delta] = field(default_factory=dict)
    returned: Counter[tuple[str, date]] = field(default_factory=Counter)
    dead: Amounts = field(default_factory=Counter)
    dead_items: Counter[bytes] = field(default_factory=Counter)
    events: dict[tuple[str, str], Part] = field(default_factory=dict)
    ledger: dict[str, LedgerRow] = field(default_factory=dict)
    applied: set[tuple[str, bytes]] = field(default_factory=set)
    rows: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    open_letters: dict[int, "Letter"] = field(default_factory=dict)


def look_into_postgres(connection: psycopg.Connection) -> InPostgres:
    seen = InPostgres()
    with connection.pipeline():
        totals, raw, events, letters, ledger = (
            connection.execute(query) for query in (_TOTALS, _RAW, _EVENTS, _DEAD_LETTERS, _LEDGER)
        )
    for family, name, values in totals:
        seen.totals.update(_parts(family, name, values))
    for day, batch_id, key, family, name, values in raw:
        if batch_id == "dropped":
            seen.returned[family, day] += 1
            continue
        assert (batch_id, key.encode()) not in seen.deltas, f"{key} of {batch_id} is stored twice"
        seen.deltas[batch_id, key.encode()] = Delta(family, day, _parts(family, name, values))
        seen.applied.add((batch_id, key.encode()))
        seen.rows[batch_id] += 1
    for batch_id, event_id, payload in events:
        seen.events[batch_id, event_id] = Part("event", event_id, payload)
        seen.rows[batch_id] += 1
    for number, batch_id, family, key, member, content, content_format, is_open in letters:
        seen.letters[batch_id] += 1
        if is_open:
            seen.open_letters[number] = Letter(family, key, member, content, content_format)
        if family == "event":
            # An event without one of its members is stored.
            seen.dead_items[_dumped_text(content) if content_format == "dump" else content] += member is None
        else:
            seen.applied.add((batch_id, key))
            if is_open:
                seen.dead.update(_refused(key, content, content_format))
    seen.ledger = {batch_id: LedgerRow(*row) for batch_id, *row in ledger}
    return seen


def _parts(family: str, name: str, values: Sequence[int]) -> Amounts:
    return Amounts({Part(family, name, field): n for field, n in zip(FIELDS[family], values, strict=True)})


def _refused(key: bytes, raw: bytes, raw_format: str) -> Amounts:
    if raw_format == "hash":
        reader = hiredis.Reader()
        reader.feed(raw)
        return amounts_of(key, b"hash", reader.gets())
    return amounts_of(key, b"string" if raw_format == "string" else b"dump", raw)


def _dumped_text(dump: bytes) -> bytes:
    """The text in Redis's DUMP of a short string: a type byte, a length byte, the text, ten bytes of version and checksum."""
    return b"wrong type " + dump[2:-10]


# whether it adds up


@dataclass(slots=True)
class Drained:
    """All rows that drains have stored so far, wherever they are now: a lifecycle may have moved or dropped them since.

    `forgotten`: events that are dropped, and that no registry knows any more.
    """

    deltas: dict[tuple[str, bytes], Delta] = field(default_factory=dict)
    events: dict[tuple[str, str], Part] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    sums: Amounts = field(default_factory=Counter)
    of_days: dict[tuple[str, date], Amounts] = field(default_factory=lambda: defaultdict(Counter))
    rows_of_days: Counter[tuple[str, date]] = field(default_factory=Counter)
    forgotten: set[str] = field(default_factory=set)

    def look(self, stored: InPostgres) -> None:
        """Takes note of the rows that are new. Asserts that those of before are as they were."""
        for name, delta in stored.deltas.items():
            known = self.deltas.setdefault(name, delta)
            if known is delta:
                self.rows[name[0]] += 1
                self.sums.update(delta.amounts)
                self.of_days[delta.family, delta.day].update(delta.amounts)
                self.rows_of_days[delta.family, delta.day] += 1
            assert known == delta, f"{name}: was {known}, is {delta}"
        for event, part in stored.events.items():
            self.rows[event[0]] += event not in self.events
            assert self.events.setdefault(event, part) == part, f"{event}: another payload"

    @property
    def event_ids(self) -> set[str]:
        return {event_id for _, event_id in self.events}


@dataclass(slots=True)
class Books:
    """What was written so far. Request events are kept as the items that were pushed."""

    written: Amounts = field(default_factory=Counter)
    pushed: Counter[bytes] = field(default_factory=Counter)

    def copy(self) -> "Books":
        return Books(self.written.copy(), self.pushed.copy())

    def check(self, waiting: InRedis, stored: InPostgres, drained: Drained) -> None:
        """Asserts that what was written is exactly what waits, is stored, or was refused."""
        _check_ledger(stored, drained)
        assert +stored.totals == +drained.sums, "the totals are not the sum of what was drained"
        # Not `+`: a refused amount may be negative, and that would drop it.
        accounted = stored.totals.copy()
        accounted.update(stored.dead)
        for amounts in waiting.live.values():
            accounted.update(amounts)
        for (batch_id, key), amounts in waiting.claimed.items():
            if not _is_stored(batch_id, key, stored):
                accounted.update(amounts)
        # `==` on counters takes a missing part for 0, as here it should.
        assert accounted == self.written, _difference(accounted, self.written)
        self._check_events(waiting, stored, drained)

    def _check_events(self, waiting: InRedis, stored: InPostgres, drained: Drained) -> None:
        items = Counter(waiting.live_queue)
        for batch_id, queue in waiting.claimed_queues.items():
            items.update(_pages_not_stored(batch_id, queue, stored))
        # A replay takes nothing from Redis. A conflict counts once the other event is dropped and forgotten.
        rows = (row for batch_id, row in stored.ledger.items() if "-replay-" not in batch_id)
        taken = sum(row.keys for row in rows if row.family == "event")
        assert items.total() + taken == self.pushed.total(), (
            f"events: {self.pushed.total()} pushed, {items.total()} waiting, {taken} in the ledger"
        )
        ids, payloads = Counter(event_id for _, event_id in drained.events), {*drained.events.values()}
        twice = {name for name, times in ids.items() if times > 1}
        assert twice <= drained.forgotten, "an event is stored twice"
        for item, times in self.pushed.items():
            if part := event_part(item):
                assert ids[part.name] or items[item], f"event {part} is lost"
                assert part in payloads or items[item] or stored.dead_items[item], f"payload {part} is lost"
            else:
                assert items[item] + stored.dead_items[item] == times, f"item {item!r}: pushed {times} times"
        assert payloads <= {event_part(item) for item in self.pushed}

    def check_at_rest(self, waiting: InRedis, stored: InPostgres) -> None:
        """Asserts that nothing is under way any more."""
        assert (waiting.live, waiting.live_queue) == ({}, [])
        assert (waiting.claimed, waiting.claimed_queues) == ({}, {}), "claimed for good"
        assert waiting.open_batches == {}
        assert [batch_id for batch_id, row in stored.ledger.items() if not row.is_released] == []


def event_part(item: bytes) -> Part | None:
    """The event that an item is; None for one that was pushed to be refused."""
    if not item.startswith(b"{"):
        return None
    event = json.loads(item)
    return Part("event", event["event_id"], str(event["file_size"]))


def _is_stored(batch_id: str, key: bytes, stored: InPostgres) -> bool:
    """Of a released batch nothing is left in Redis: what is claimed under it came later, and is not stored."""
    row = stored.ledger.get(batch_id)
    return row is not None and not row.is_released and (batch_id, key) in stored.applied


def _pages_not_stored(batch_id: str, queue: list[bytes], stored: InPostgres) -> Iterator[bytes]:
    for number, first in enumerate(range(0, len(queue), _EVENT_PAGE)):
        if f"{batch_id}/{number:07d}" not in stored.ledger:
            yield from queue[first : first + _EVENT_PAGE]


def _check_ledger(stored: InPostgres, drained: Drained) -> None:
    assert {*stored.rows, *stored.letters} <= {*stored.ledger}, "rows of a batch that the ledger does not have"
    for batch_id, row in stored.ledger.items():
        assert row.stored_rows == drained.rows[batch_id], f"{batch_id}: {row}"
        # By them a recovery knows what of the batch was applied.
        assert row.is_released or row.stored_rows == stored.rows[batch_id], f"{batch_id}: {row}, and its rows are gone"
        assert row.dead_letters == stored.letters[batch_id], f"{batch_id}: {row}"
        assert row.keys == row.stored_rows + row.dead_letters - row.refused_members + row.duplicates, (
            f"{batch_id}: {row}"
        )


def _difference(accounted: Amounts, written: Amounts) -> str:
    parts = sorted({*accounted, *written})
    wrong = [
        f"{' '.join(part)}: {written[part]} written, {accounted[part]} accounted for ({accounted[part] - written[part]:+})"
        for part in parts
        if accounted[part] != written[part]
    ]
    return "; ".join(wrong)

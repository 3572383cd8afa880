"""The request event queue (contracts §1.5). The drain claims the whole list with one rename, and stores it page by page.

After the rename the list never changes: writers push to the live name only. So the position identifies a page. Each page has
its own ledger row, and one drainer stores it, once. When every page is stored, the list is deleted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import Literal, Protocol
from uuid import UUID

import msgspec
from usage_recorder.keys import EVENT_QUEUE

from usage_pipeline import values
from usage_pipeline.drain.batch import (
    Batch,
    DeadLetter,
    Origin,
    Page,
    Part,
    TooLarge,
    WrongType,
    claim_of,
    dead_letter,
    new_batch_id,
)
from usage_pipeline.drain.families import Family
from usage_pipeline.drain.members import JsonMembers, Parsed, claim_time, decode_members
from usage_pipeline.drain.protocol import (
    FORGET_EMPTY_BATCH_MS,
    BarrierFellShort,
    CounterSource,
    DrainLimits,
    DrainReport,
)
from usage_pipeline.drain.room import LARGEST_KEY_BYTES, Room
from usage_pipeline.drain.store import Applied, LedgerRow
from usage_pipeline.storage.copy_text import copy_line
from usage_pipeline.storage.redis import RedisUnavailable
from usage_pipeline.values import UNREADABLE_JSON, Malformed, PossibleTimes, TimeWindow

# Part of the protocol: the position identifies a page. So versions with different page sizes must never share a queue.
PAGE_ITEMS = 5_000


class RequestEvent(msgspec.Struct):
    """One item of the queue, as writers push it."""

    event_id: UUID
    api_key_id: str
    user_id: str
    provider: str
    event_type: str
    file_size: int
    status: Literal["success", "failure"]
    at: datetime


class _TimelessEvent(RequestEvent):
    """An item whose time may be anything."""

    at: msgspec.Raw  # type: ignore[assignment]


_decode = msgspec.json.Decoder(RequestEvent).decode
_decode_timeless = msgspec.json.Decoder(_TimelessEvent).decode
EVENT_MEMBERS = frozenset(RequestEvent.__struct_fields__)


def parse_event(item: bytes, window: TimeWindow) -> Parsed:
    """A queue item -> (payload hash, event_id, api_key_id, user_id, provider, event_type, file_size, status, at, extra).

    The hash leaves out `at`, because a retry may set a new time. Only `at` and unknown members can be parted from an event:
    the others say together what happened. Raises Malformed.
    """
    try:
        found = decode_members(item)
        members = JsonMembers(found, ("event_id",))
        event = _event(item, members)
    except UNREADABLE_JSON as error:
        came = f"{values.shown(item)}: {values.described(error)}"
        raise Malformed(f"item: expected a request event as JSON, came {came}") from None
    texts = tuple(
        values.identifier_text(name, getattr(event, name))
        for name in ("api_key_id", "user_id", "provider", "event_type")
    )
    if not 0 <= event.file_size <= values.MAX_COUNT:
        raise Malformed(f"file_size: expected 0 to {values.MAX_COUNT} (bigint), came {event.file_size}")
    at = members.checked("at", event.at, lambda at: values.moment("at", at, window)) or claim_time(window)
    extra = members.unknown(EVENT_MEMBERS)
    payload = msgspec.json.encode((*texts, event.file_size, event.status, extra))
    hash_ = blake2b(payload, digest_size=16).digest()
    row = (hash_, event.event_id, *texts, event.file_size, event.status, at, extra)
    return Parsed(row, members.refused())


@dataclass(frozen=True, slots=True)
class Amendment:
    """What a dead letter of a member adds to a stored event: another time, or unknown members as JSON."""

    event_id: UUID
    at: datetime | None
    extra: str | None


def parse_amendment(value: bytes, window: TimeWindow) -> Amendment:
    """The value of a dead letter of a member of an event. Raises Malformed if the member is refused again."""
    found = decode_members(value)
    members = JsonMembers(found)
    at = members.checked(
        "at", members.decoded("at", "an ISO-8601 time", datetime), lambda at: values.moment("at", at, window)
    )
    extra = members.unknown(EVENT_MEMBERS)
    for refused in members.refused():
        raise Malformed(refused.reason)
    return Amendment(msgspec.json.decode(found["event_id"], type=UUID), at, extra)


def _event(item: bytes, members: JsonMembers) -> RequestEvent:
    """The known members; `at` is None if it is refused. Raises one of UNREADABLE_JSON if another one cannot be read."""
    try:
        return _decode(item)
    except UNREADABLE_JSON:
        event = _decode_timeless(item)
        event.at = members.decoded("at", "an ISO-8601 time", datetime)
        return event


EVENT = Family(
    "event", EVENT_QUEUE, b"", b"list", b"LRANGE", "raw.request_events", EVENT_MEMBERS, lambda *_: Parsed(())
)


def page_id(queue_batch: str, number: int) -> str:
    """The id of a page in the ledger: the batch id of the claimed queue, and the number of the page."""
    return f"{queue_batch}/{number:07d}"


class EventStore(Protocol):
    """What the drain of the queue asks of PostgreSQL. UsageStore is the real one."""

    def apply_events(self, page: Page) -> Applied: ...
    def ledger(self, batch_ids: Sequence[str]) -> dict[str, LedgerRow]: ...
    def unreleased(self, family: str) -> list[str]: ...
    def mark_released(self, batch_ids: Sequence[str]) -> None: ...


class QueueSource(CounterSource, Protocol):
    """What the drain of the queue asks of Redis, besides the calls of every drain."""

    def claim_queue(self, batch_id: str) -> bool: ...
    def queue_length(self, batch_id: str) -> int | WrongType | TooLarge: ...
    def item_sizes(self, batch_id: str, first: int, items: int) -> list[int]: ...
    def read_items(self, batch_id: str, first: int, items: int) -> list[bytes]: ...
    def beginning_of_item(self, batch_id: str, position: int) -> bytes: ...


class QueueDrain:
    """One drain of the queue. All its steps use the same source, store and limits, and add to `report`.

    However little time it gets, it stores one page or settles one queue: so it ends some day, whatever the limits are.
    """

    def __init__(self, source: QueueSource, store: EventStore, limits: DrainLimits) -> None:
        self.report = DrainReport(EVENT.name)
        self._source = source
        self._store = store
        self._limits = limits
        self._has_moved = False

    def run(self, *, is_uncertain: bool = False) -> DrainReport:
        """Recovers queues that other drainers left claimed. Then it claims the live queue, and stores all its pages.

        When a limit is reached, the rest of the queue stays claimed for the next drain. `is_uncertain` flags this claim.
        """
        self._recover()
        if not self.report.is_complete or self._must_stop():
            return self.report
        batch_id = new_batch_id(self._source.now_ms())
        self._source.open_batch(EVENT.name, batch_id)
        if not self._source.claim_queue(batch_id):
            self._source.settle_batch(EVENT.name, batch_id)
        else:
            self._load_queue(batch_id, is_uncertain)
        return self.report

    def _recover(self) -> None:
        servers = {batch.batch_id: batch.server for batch in self._source.open_batches(EVENT.name)}
        unsettled = {*servers, *(claim_of(page) for page in self._store.unreleased(EVENT.name))}
        if self._source.finds_claims(EVENT):
            unsettled.update(self._source.claimed_keys(EVENT))
        for batch_id in sorted(unsettled):
            if self._must_stop():
                return
            self._load_queue(batch_id, servers.get(batch_id) != self._source.facts.identity)

    def _load_queue(self, batch_id: str, is_uncertain: bool) -> None:
        """Stores the pages that are not stored yet, then deletes the claimed list and settles the batch."""
        source = self._source
        # PostgreSQL is asked before Redis. If a page is stored, and the list is gone after that, then every page is stored:
        # a list is deleted only then. In the other order, a drainer may claim the list after our look at Redis and store one
        # page of it before our look at PostgreSQL. We would take it for a list that is stored as a whole.
        is_stored = bool(self._unreleased_pages(batch_id))
        length = source.queue_length(batch_id)
        if length == 0:
            if is_stored:
                self._release(batch_id)
            elif source.age_ms(batch_id) > FORGET_EMPTY_BATCH_MS:
                # Only the note is removed: a slower drainer may claim the queue at this very moment.
                source.settle_batch(EVENT.name, batch_id)
            return
        if source.age_ms(batch_id) < source.plan.minimum_age_ms:
            self.report.left_claimed += length if isinstance(length, int) else 1
            return
        if not source.barrier():
            raise BarrierFellShort(
                f"event: Redis did not confirm in time that the claim of queue {batch_id} is durable"
            )
        queue = Origin.of_claim(batch_id, source.facts.identity, is_uncertain=is_uncertain)
        if not isinstance(length, int):
            self._apply(_page_of_wrong_type(page_of(queue, 0), length))
        else:
            # Only pages that are not stored are read. To read the others again costs a third of storing them, and a drain with
            # a budget would at last do nothing else.
            pages = {page_id(batch_id, number): number for number in range(-(-length // PAGE_ITEMS))}
            for number in sorted(pages[page] for page in pages.keys() - self._store.ledger([*pages]).keys()):
                if self._must_stop():
                    return
                first = number * PAGE_ITEMS
                sizes = source.item_sizes(batch_id, first, PAGE_ITEMS)
                page = self._page(batch_id, page_of(queue, number), first, sizes)
                if page is None:
                    # Another drainer has deleted the list. Before that, it found every page stored.
                    break
                self._apply(page)
        self._release(batch_id)

    def _must_stop(self) -> bool:
        """Whether a limit is reached and something was done; then this drain is not complete."""
        if self._has_moved and self._limits.is_reached():
            self.report.is_complete = False
        return not self.report.is_complete

    def _page(self, batch_id: str, origin: Origin, first: int, sizes: Sequence[int]) -> Page | None:
        """A page that is in memory as a whole, or one that is read part by part while it is stored. None if it is gone."""
        if Room().take(sizes) < len(sizes):
            return Page(origin, len(sizes), lambda: self._parts(batch_id, origin, first, sizes))
        items = self._source.read_items(batch_id, first, len(sizes)) if sizes else []
        return whole_page(origin, first, items, times=self._limits.times) if items else None

    def _parts(self, batch_id: str, origin: Origin, first: int, sizes: Sequence[int]) -> Iterator[Part]:
        """Raises RedisUnavailable if Redis has lost the list: another drainer waits until this page is stored."""
        end = first + len(sizes)
        while first < end:
            room = Room()
            wanted = room.take(sizes[first - end :])
            if room.is_too_large:
                beginning = self._source.beginning_of_item(batch_id, first)
                yield Part(_too_large_item(origin, first, beginning, sizes[first - end]), first, ())
            else:
                items = self._source.read_items(batch_id, first, wanted)
                if len(items) < wanted:
                    raise RedisUnavailable(f"Redis: the claimed queue of batch {batch_id} has lost items")
                yield Part(parse_page(origin, first, items, times=self._limits.times), first, items)
            first += wanted

    def _apply(self, page: Page) -> None:
        self._has_moved = True
        self.report.add(page.items, self._store.apply_events(page))

    def _release(self, batch_id: str) -> None:
        self._has_moved = True
        if self._source.release(batch_id, [EVENT_QUEUE]):
            self._store.mark_released(self._unreleased_pages(batch_id))
            self._source.settle_batch(EVENT.name, batch_id, is_stored=True)

    def _unreleased_pages(self, batch_id: str) -> list[str]:
        return [page for page in self._store.unreleased(EVENT.name) if page.startswith(f"{batch_id}/")]


def page_of(queue: Origin, number: int) -> Origin:
    """The origin of a page of a claimed queue."""
    return replace(queue, batch_id=page_id(queue.batch_id, number))


def whole_page(page: Origin, first: int, items: Sequence[bytes], *, times: PossibleTimes) -> Page:
    """A page whose items are in memory."""
    parts = [Part(parse_page(page, first, items, times=times), first, items)]
    return Page(page, len(items), lambda: parts)


def _page_of_wrong_type(page: Origin, content: WrongType | TooLarge) -> Page:
    reason = f"key: expected a Redis list, came a {content.redis_type}"
    if isinstance(content, TooLarge):
        reason += f" of {content.size} bytes; its content is not kept"
    letter = replace(dead_letter(EVENT_QUEUE, content, reason), position=0)
    parts = [Part(Batch(page, keys=[EVENT_QUEUE], dead_letters=[letter]), 0, ())]
    return Page(page, 1, lambda: parts)


def _too_large_item(page: Origin, position: int, beginning: bytes, size: int) -> Batch:
    reason = f"item: expected at most {LARGEST_KEY_BYTES} bytes, came {size}; only the first {len(beginning)} are kept"
    return Batch(page, dead_letters=[DeadLetter(EVENT_QUEUE, reason, beginning, "string", position)])


def parse_page(page: Origin, first: int, items: Sequence[bytes], *, times: PossibleTimes) -> Batch:
    """Makes a line of each item of a page, and dead letters of what is refused. The first item has position `first`."""
    window = page.window(times)
    batch = Batch(page, keys=[EVENT_QUEUE] * len(items))
    for position, item in enumerate(items, first):
        try:
            row, refused = parse_event(item, window)
            batch.lines.append(copy_line((position, *row)))
            for member in refused:
                letter = dead_letter(EVENT_QUEUE, member.raw, member.reason)
                batch.dead_letters.append(replace(letter, position=position, member=member.member))
        except Malformed as malformed:
            batch.dead_letters.append(DeadLetter(EVENT_QUEUE, str(malformed), item, "string", position))
    return batch

"""Finds out, by reading alone, that a batch is stored already: so a long request that comes again goes on where it stopped."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import psycopg

from usage_pipeline.bindings import Binding
from usage_pipeline.drain.batch import new_batch_id
from usage_pipeline.events.ingest.batches import IngestReport, Kind, Rejection
from usage_pipeline.events.ingest.documents import Items
from usage_pipeline.events.ingest.model import EventWindow, Item
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load
from usage_pipeline.values import Malformed


def report_if_stored(
    connection: psycopg.Connection,
    kind: Kind,
    items: Items,
    *,
    sender: str,
    settings: Settings,
    binding: Binding | None = None,
) -> IngestReport | None:
    """What `ingest` would report of a batch whose valid items are all stored, as duplicates; None for another batch.

    Its first valid item is looked for alone: nearly always it tells. Raises psycopg.Error.
    """
    now = datetime.now(UTC)
    window = EventWindow.around(now, settings)
    bound = None if binding is None else kind.bound_to(binding)
    items = items if bound is None else bound.items(items)
    found: list[Item] = []
    rejected: list[Rejection] = []
    for index in range(len(items)):
        try:
            item = kind.parse(items[index], window, sender)
            if bound is not None:
                bound.expect_own(item)
        except Malformed as malformed:
            rejected.append(Rejection(index, str(malformed)))
            continue
        # Not its row: those of a whole batch may be large.
        found.append(Item(item.event_id, None, item.payload_hash, b""))
        if len(found) == 1 and not _are_stored(connection, kind, found, binding):
            return None
    if not found or not _are_stored(connection, kind, found, binding):
        return None
    batch_id = new_batch_id(int(now.timestamp() * 1000))
    return IngestReport(batch_id, len(items), 0, len(found), 0, tuple(rejected))


def _are_stored(connection: psycopg.Connection, kind: Kind, found: Sequence[Item], binding: Binding | None) -> bool:
    # Each as one text: a thousand values would take as long as the query.
    arguments: dict[str, object] = {
        "ids": _array(item.event_id.hex for item in found),
        "own_ids": "{}" if binding is None else _array(binding.own_id(item.event_id).hex for item in found),
        "hashes": _array(item.payload_hash for item in found),
        **({"binding_id": None, "teams": [], "services": [], "users": []} if binding is None else binding.arguments),
    }
    [(stored,)] = connection.execute(load(kind.count_stored), arguments).fetchall()
    return bool(stored == len(found))


def _array(texts: Iterable[str]) -> str:
    return f"{{{','.join(texts)}}}"

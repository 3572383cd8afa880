"""Replays dead letters of landed files. The item goes through the same ingest again, and counts once because of its id."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

import psycopg

from usage_pipeline.drain.corrections import Settable
from usage_pipeline.drain.dead_letters import Other, ReplayResult, StoredDeadLetter
from usage_pipeline.events.files.names import kind_of
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, ingest
from usage_pipeline.events.ingest.model import EventWindow, MessageArchive, UsageEvent
from usage_pipeline.settings import Settings

KINDS = {kind.dead_letter_family: kind for kind in (EVENTS, ARCHIVES)}
_SETTABLE = {EVENTS.name: Settable.of(UsageEvent), ARCHIVES.name: Settable.of(MessageArchive)}


def landed(settings: Settings) -> Mapping[str, Other]:
    """What to do with dead letters of landed files, by their families."""
    replay, read = partial(replay_item, settings=settings), partial(expect_readable, settings=settings)
    return {family: Other(replay, read, _SETTABLE[kind.name]) for family, kind in KINDS.items()}


def place(letter: StoredDeadLetter) -> str:
    """Where in its source it was: `line 17` of a file, `row 17` of Parquet, `item 3` of a JSON array or of the queue.

    Empty for a key.
    """
    if letter.position is None:
        return ""
    kind = kind_of(letter.source_key.decode(errors="replace")) if letter.family in KINDS else None
    return f"{kind.place if kind else 'item'} {letter.position}"


def expect_readable(letter: StoredDeadLetter, settings: Settings) -> None:
    """Raises Malformed if the item breaks a rule, whatever is stored."""
    KINDS[letter.family].parse(letter.raw, EventWindow.around(datetime.now(UTC), settings))


def replay_item(connection: psycopg.Connection, letter: StoredDeadLetter, settings: Settings) -> ReplayResult:
    """Tries a rejected item again, and in the same transaction notes that it counts. If it is refused again, it stays open.

    An item that was stored meanwhile in another way is settled, too: it counts once.
    """
    kind = KINDS[letter.family]
    refused = ""
    with connection.transaction() as transaction:
        source = f"dead-letter:{letter.dead_letter_id}"
        report = ingest(connection, kind, [letter.raw], source=source, settings=settings)
        if report.rejected:
            refused = report.rejected[0].reason
        elif report.conflicts:
            refused = "event_id: an event with this id and other content is stored"
        if refused:
            raise psycopg.Rollback(transaction)
        connection.execute(
            "update ops.dead_letters set replayed_at = clock_timestamp() where dead_letter_id = %s",
            (letter.dead_letter_id,),
        )
    return ReplayResult(letter.dead_letter_id, letter.family, not refused, refused)

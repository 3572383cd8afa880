"""Replays dead letters of landed files. The item goes through the same ingest again, and counts once because of its id."""

import psycopg

from usage_pipeline.drain.dead_letters import ReplayResult, StoredDeadLetter
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, ingest
from usage_pipeline.settings import Settings

KINDS = {kind.dead_letter_family: kind for kind in (EVENTS, ARCHIVES)}


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

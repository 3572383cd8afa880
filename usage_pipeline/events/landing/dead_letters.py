"""Replays dead letters of landed files: the item goes through the same ingest again, and its id lets it count once."""

import psycopg

from usage_pipeline.drain.dead_letters import ReplayResult, StoredDeadLetter
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, ingest
from usage_pipeline.settings import Settings

KINDS = {kind.dead_letter_family: kind for kind in (EVENTS, ARCHIVES)}


def replay_item(connection: psycopg.Connection, letter: StoredDeadLetter, settings: Settings) -> ReplayResult:
    """Tries a rejected item again, in one transaction with the note that it counts. Refused again, it stays open.

    One that was stored meanwhile from elsewhere is settled too: it counts once.
    """
    kind = KINDS[letter.family]
    refused = ""
    with connection.transaction() as transaction:
        source = f"dead-letter:{letter.dead_letter_id}"
        report = ingest(connection, kind, [letter.raw], source=source, settings=settings)
        if report.rejected:
            refused = report.rejected[0].reason
        elif report.conflicts:
            refused = "event_id: it is stored with another payload"
        if refused:
            raise psycopg.Rollback(transaction)
        connection.execute(
            "update ops.dead_letters set replayed_at = clock_timestamp() where dead_letter_id = %s",
            (letter.dead_letter_id,),
        )
    return ReplayResult(letter.dead_letter_id, letter.family, not refused, refused)

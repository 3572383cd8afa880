"""Stores a long request portion by portion, each in a transaction of its own, so that each try of its sender gets further."""

from dataclasses import dataclass, field

import psycopg

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api.storing import Storing
from usage_pipeline.events.ingest.batches import IngestReport, Kind, ingest, note_reports
from usage_pipeline.events.ingest.documents import Items
from usage_pipeline.events.ingest.sent_before import report_if_stored
from usage_pipeline.settings import Settings

# One portion waits for somebody who has the same ids, or is too slow: the others need not.
_OF_ONE_PORTION = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


@dataclass(slots=True)
class Portions:
    """The portions of one request, in their order. `sender` gives the ids that are no UUIDs.

    What an earlier try of the same request stored is found by reading, and noted at the end, in one transaction. To store it
    again would take the time that the rest needs: with a slow server no try would get further than the first one.
    """

    storing: Storing
    settings: Settings
    caller: AccessToken
    sender: str
    # Of a single portion there is nothing to go on with.
    are_several: bool
    _stored_before: dict[str, tuple[Kind, list[IngestReport]]] = field(default_factory=dict)
    _failure: psycopg.Error | None = None

    def store(self, kind: Kind, items: Items) -> IngestReport | None:
        """Stores one. None when it failed in a way that leaves the others their turn; then `finish` raises the error.

        Raises psycopg.Error when PostgreSQL fails otherwise, and what the items raise.
        """
        binding = self.caller.binding
        with self.storing.pool.connection() as connection:
            try:
                if self.are_several and (
                    known := report_if_stored(
                        connection, kind, items, sender=self.sender, settings=self.settings, binding=binding
                    )
                ):
                    self._stored_before.setdefault(kind.name, (kind, []))[1].append(known)
                    return known
                return ingest(
                    connection,
                    kind,
                    items,
                    source=self._source,
                    sender=self.sender,
                    settings=self.settings,
                    binding=binding,
                )
            except _OF_ONE_PORTION as error:
                self._failure = self._failure or error
                return None

    def finish(self) -> None:
        """Notes what was stored before. Raises the first error of a portion."""
        if self._failure is not None:
            raise self._failure
        for kind, reports in self._stored_before.values():
            with self.storing.pool.connection() as connection:
                note_reports(connection, kind, self._source, reports)

    @property
    def _source(self) -> str:
        return f"http:{self.caller.token_id}"

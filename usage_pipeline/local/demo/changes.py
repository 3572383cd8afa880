"""What changes after it was stored: events that come late, an event that is put right, archived days that are read back."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg

from usage_pipeline.events.corrections.events import Corrected, Wanted, correct
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.local.demo.costs import list_cost
from usage_pipeline.local.traffic.services import MOVED_SERVICE, SentEvent
from usage_pipeline.process import user_name
from usage_pipeline.rollups.calendar import GRAINS, Grain, Window, day_window
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.archives.store import ArchiveStore

_CORRECTED_DAYS_AGO = 5
_CHARACTERS_OF_A_TOKEN = 4
_WRONG_INPUT_TOKENS = 480_000
_REASON = "the client of the demo counted characters as tokens"


@dataclass(frozen=True, slots=True)
class Mistake:
    """An event that was sent wrong, and how it is right. Costs are US dollars by the price list."""

    wrong: SentEvent
    right: SentEvent
    reason: str = _REASON

    @property
    def event_id(self) -> str:
        return str(self.wrong.event["event_id"])

    @property
    def costs(self) -> tuple[Decimal, Decimal]:
        """Before and after."""
        return list_cost(self.wrong, None) or Decimal(0), list_cost(self.right, None) or Decimal(0)


def mistake_among(events: Sequence[SentEvent], today: date, settings: Settings) -> Mistake | None:
    """Makes a mistake of the last chat of a past day, or of the last one before; None if there is none."""
    until = day_window(today - timedelta(days=_CORRECTED_DAYS_AGO - 1), settings.timezone).first
    candidates = [
        one
        for one in events
        if one.event["service"] == MOVED_SERVICE and "provider_usage" in one.event and one.at < until
    ]
    if not candidates:
        return None
    event = {name: value for name, value in candidates[-1].event.items() if name != "provider_usage"}
    output = candidates[-1].units["output_tokens"]

    def told(input_tokens: int) -> SentEvent:
        units = {"input_tokens": input_tokens, "output_tokens": output}
        return SentEvent({**event, **units}, units)

    return Mistake(told(_WRONG_INPUT_TOKENS), told(_WRONG_INPUT_TOKENS // _CHARACTERS_OF_A_TOKEN))


def put_right(connection: psycopg.Connection, settings: Settings, mistake: Mistake) -> Corrected:
    """Replaces the event, as `events replace` does. ops.corrections notes it."""
    wanted = Wanted(mistake.reason, event=json.dumps(mistake.right.event).encode())
    [corrected] = correct(connection, [wanted], corrected_by=user_name(), settings=settings)
    return corrected


def store_late(connection: psycopg.Connection, settings: Settings, events: Sequence[SentEvent]) -> None:
    """Stores events of past days that are rolled up."""
    items = [json.dumps(one.event).encode() for one in events]
    ingest(connection, EVENTS, items, source="demo:late", settings=settings)


def make_again(
    connection: psycopg.Connection,
    settings: Settings,
    events: Sequence[SentEvent],
    *,
    grains: Sequence[Grain] = GRAINS,
    until: datetime | None = None,
) -> None:
    """Makes past windows of these events again that changed, as the sensor `late_windows` does; only those that end by `until`.

    Stale windows of other events are left to that sensor.
    """
    times = sorted(one.at for one in events)
    # Weeks and months come when their days are done.
    for _ in grains:
        now = datetime.now(UTC)
        for stale in stale_windows(connection, time_zone=settings.timezone, now=now):
            window = stale.window
            if window.grain in grains and (until is None or window.end <= until) and _has_one(times, window):
                replace_window(connection, window, settings=settings, now=now, keeps_tags=True)


def read_back(connection: psycopg.Connection, settings: Settings, days: Sequence[date], folder: Path) -> None:
    """Reads back what `dev` archived of these days, as `archive restore` does: a day is made of all its events.

    Raises ArchiveDamaged and ArchiveUnavailable.
    """
    first, last = (day_window(day, settings.timezone) for day in (days[0], days[-1]))
    found = archives(connection, start=first.first, end=last.end, only_in_files=True)
    store = ArchiveStore(settings.archive_url or str(folder.resolve() / "archive"))
    for archive in found:
        restore(connection, store, archive, interval_hours=settings.chunk_time_interval_hours)


def _has_one(times: Sequence[datetime], window: Window) -> bool:
    at = bisect_left(times, window.first)
    return at < len(times) and times[at] < window.end

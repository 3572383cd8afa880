"""Numbers of dropped events, kept so that late events are added to them: a window is what is kept and its events.

While all events of a window are dropped, what is stored of it is all there is, and nothing is kept aside. When others come,
the stored numbers are copied to the tables `*_kept`, once. When these events are dropped, too, the copy goes again. A window
that is only partly in a dropped span has its share kept from the start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

import psycopg

from usage_pipeline.rollups.calendar import Grain, Window
from usage_pipeline.rollups.window_tables import EVENT_PARTS, MOST_TAG_VALUES
from usage_pipeline.storage.chunks.dropped import DropRules
from usage_pipeline.storage.sql import load

EVENTS_TABLE = "analytics.usage_events"


@dataclass(frozen=True, slots=True)
class WindowSource:
    """Where the events of an hour or day are: only in an archive file, dropped, in the table.

    `is_wholly_dropped`: no moment of the window is outside of dropped spans. `edges_kept`: the share of dropped spans that the
    window overlaps in part is known. `is_kept`: what was dropped is set aside. `events` (in the table) are counted only for a
    window with dropped events, or when that was asked for.
    """

    is_in_file: bool
    is_dropped: bool
    is_wholly_dropped: bool
    edges_kept: bool
    is_kept: bool
    events: int
    has_events: bool


def window_source(connection: psycopg.Connection, window: Window, *, counts_events: bool = False) -> WindowSource:
    """Looks for the events of an hour or day."""
    arguments = {"grain": window.grain, "first": window.first, "until": window.end, "counts_events": counts_events}
    [row] = connection.execute(load("rollups/select_window_source"), arguments).fetchall()
    return WindowSource(*row)


def keep_stored(connection: psycopg.Connection, window: Window, parameters: Mapping[str, object]) -> None:
    """Sets aside what is stored of a window whose events are all dropped, within the transaction that adds others to it."""
    for table in EVENT_PARTS[window.grain]:
        connection.execute(table.keeping_stored(), parameters)
    _note_kept(connection, window.grain, window.first, window.end, window.day if window.grain == "day" else None)


def keep_before_drop(connection: psycopg.Connection, table: str, start: datetime, end: datetime) -> None:
    """Keeps the share of each window that is only partly in a span whose events are dropped in this transaction.

    All windows of the span must be rolled up. Windows within it are all that is left of their events.
    """
    if table != EVENTS_TABLE:
        return
    for edge in _edges(connection, start, end):
        if edge.is_last:
            connection.execute(load("rollups/dropped/delete_kept_windows"), {"start": edge.first, "end": edge.end})
            continue
        share = {
            "window": edge.usage_date or edge.first,
            "first": max(edge.first, start),
            "until": min(edge.end, end),
            "price_version": edge.price_version,
            # The tags that the day has.
            "rollup_tags": None,
            "most_values": MOST_TAG_VALUES,
        }
        for part in EVENT_PARTS[edge.grain]:
            connection.execute(part.keeping(), share)
        _note_kept(connection, edge.grain, edge.first, edge.end, edge.usage_date)
    connection.execute(load("rollups/dropped/delete_kept_windows"), {"start": start, "end": end})


def needs_rows_before_drop(connection: psycopg.Connection, table: str, start: datetime, end: datetime) -> bool:
    """Whether `keep_before_drop` must read the events of a span, so that a file with them must be read back before."""
    return table == EVENTS_TABLE and any(not edge.is_last for edge in _edges(connection, start, end))


DROP_RULES = DropRules(keep=keep_before_drop, needs_rows=needs_rows_before_drop)


@dataclass(frozen=True, slots=True)
class _Edge:
    grain: Grain
    first: datetime
    end: datetime
    usage_date: date | None
    price_version: str
    is_last: bool


def _edges(connection: psycopg.Connection, start: datetime, end: datetime) -> list[_Edge]:
    rows = connection.execute(load("rollups/dropped/select_edges"), {"start": start, "end": end}).fetchall()
    return [_Edge(*row) for row in rows]


def _note_kept(
    connection: psycopg.Connection, grain: Grain, first: datetime, until: datetime, usage_date: date | None
) -> None:
    arguments = {"grain": grain, "first": first, "until": until, "usage_date": usage_date}
    connection.execute(load("rollups/dropped/insert_kept_window"), arguments)

"""Faults of stored rankings: gaps, scores out of order, missing entries."""

from collections.abc import Iterable
from datetime import UTC, date, datetime

import psycopg

from usage_pipeline.rollups.rankings import Ranking, ranking_windows
from usage_pipeline.settings import Settings
from usage_pipeline.texts import counted


def ranking_faults(
    connection: psycopg.Connection,
    ranking: Ranking,
    days: Iterable[date],
    *,
    settings: Settings,
    now: datetime | None = None,
) -> list[str]:
    """One text for each date with a fault: ranks are not 1 to n, a score is higher than the one before it, or there are less
    than ten entries although there are more candidates. Today's entries are not counted: more candidates may come.
    """
    parameters = {**ranking_windows(days, settings), "now": now or datetime.now(UTC)}
    rows = connection.execute(ranking.compose("checks/select_ranking_faults"), parameters)
    return [_fault(ranking, *row) for row in rows]


def _fault(ranking: Ranking, day: date, rows: int, last_rank: int, rises: bool, expected: int) -> str:
    if rows != last_rank:
        problem = f"expected the ranks 1 to {rows}, came a last rank of {last_rank}"
    elif rises:
        problem = "expected no score above the one before it, came one"
    else:
        problem = f"expected {counted(expected, 'entry', 'entries')}, came {rows}"
    return f"{ranking.table} of {day}: {problem}. Materialize the date again"

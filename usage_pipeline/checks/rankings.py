"""What is wrong with stored rankings: gaps, scores out of order, missing entries. Nothing here changes anything."""

from collections.abc import Iterable
from datetime import UTC, date, datetime

import psycopg

from usage_pipeline.rollups.rankings import Ranking, ranking_windows
from usage_pipeline.settings import Settings


def ranking_faults(
    connection: psycopg.Connection,
    ranking: Ranking,
    days: Iterable[date],
    *,
    settings: Settings,
    now: datetime | None = None,
) -> list[str]:
    """One text per date whose ranks are not 1 to n, whose scores rise, or which misses candidates although there are less
    than ten entries. The entries of a day that is not over are not counted: candidates still come.
    """
    parameters = {**ranking_windows(days, settings), "now": now or datetime.now(UTC)}
    rows = connection.execute(ranking.compose("checks/select_ranking_faults"), parameters)
    return [_fault(ranking, *row) for row in rows]


def _fault(ranking: Ranking, day: date, rows: int, last_rank: int, rises: bool, expected: int) -> str:
    if rows != last_rank:
        problem = f"expected the ranks 1 to {rows}, came a last rank of {last_rank}"
    elif rises:
        problem = "expected scores that descend, came one above the one before it"
    else:
        problem = f"expected {expected} entries, came {rows}"
    return f"{ranking.table} of {day}: {problem}; materialize the date again"

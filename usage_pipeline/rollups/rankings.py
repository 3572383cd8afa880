"""The ten most popular of the seven days up to a date: issues, models, services, API keys. One definition makes them all.

A ranking is stored per date. It is made from what is stored at that time: issues and comments, or daily tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import psycopg
from psycopg import sql as compose
from psycopg.rows import tuple_row
from pydantic.alias_generators import to_camel

from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.stale.dates import begin_dates, mark_made
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import column_list, composed, relation
from usage_pipeline.values import utc_text

RANKING_SIZE = 10
RANKING_DAYS = 7


@dataclass(frozen=True, slots=True)
class Ranking:
    """A ranking. `sql/rollups/select_<candidates>_candidates.sql` selects the candidates with `id`, `title` and score parts.

    The sum of `score_parts` is the score. `lineage` maps each column to the columns (schema.table.column) that it comes from.
    """

    name: str
    title: str
    candidates: str
    score_parts: tuple[str, ...]
    parts: tuple[str, ...]
    lineage: Mapping[str, tuple[str, ...]]

    @property
    def table(self) -> str:
        return f"stats.popular_{self.name}"

    @property
    def cache_key(self) -> str:
        return f"popular:{self.name}"

    @property
    def source_tables(self) -> tuple[str, ...]:
        """The tables that the ranking is made from, in alphabetical order."""
        return tuple(sorted({source.rpartition(".")[0] for sources in self.lineage.values() for source in sources}))

    def compose(self, query: str) -> compose.Composed:
        """A query of `sql/` that is written for all rankings."""
        score = compose.SQL(" + ").join(
            compose.SQL("{}::numeric").format(compose.Identifier(part)) for part in self.score_parts
        )
        # Of equal scores, the newer candidate comes first if candidates have a time, then the smaller id.
        newer = compose.SQL("created_at desc, " if "created_at" in self.parts else "")
        return composed(
            query,
            table=relation(self.table),
            candidates=composed(f"rollups/select_{self.candidates}_candidates"),
            score=score,
            order=compose.SQL('score desc, {}id collate "C"').format(newer),
            parts=column_list(self.parts),
            stored=column_list(self.parts, of="t"),
            excluded=column_list(self.parts, of="excluded"),
        )


def _of_usage(
    name: str, title: str, candidates: str, score_part: str, identity: Mapping[str, tuple[str, ...]]
) -> Ranking:
    lineage = {part: (f"analytics.usage_daily.{part}",) for part in ("requests", "total_tokens")}
    parts = tuple(lineage)
    return Ranking(
        name, title, candidates, (score_part,), parts, {**identity, **lineage} | {"score": lineage[score_part]}
    )


_MODEL = {
    "id": ("analytics.usage_daily.provider", "analytics.usage_daily.model"),
    "title": ("analytics.usage_daily.model",),
}
_SERVICE = {"id": ("analytics.usage_daily.service",), "title": ("analytics.usage_daily.service",)}
_API_KEY_PARTS = ("total_requests", "failed_requests", "total_file_size")

# API keys have no tokens (contracts §1.1), so they are ranked by requests alone.
RANKINGS = (
    Ranking(
        "issues",
        "Issues created in the seven days up to a date, by views and comments",
        "issue",
        ("view_count", "comment_count"),
        ("view_count", "comment_count", "created_at"),
        {
            "id": ("app.issues.id",),
            "title": ("app.issues.title",),
            "view_count": ("app.issues.view_count",),
            "comment_count": ("app.comments.id", "app.comments.issue_id", "app.comments.created_at"),
            "score": ("app.issues.view_count", "app.comments.id"),
            "created_at": ("app.issues.created_at",),
        },
    ),
    _of_usage("models", "Models by requests", "model", "requests", _MODEL),
    _of_usage("models_by_tokens", "Models by tokens", "model", "total_tokens", _MODEL),
    _of_usage("services", "Services by requests", "service", "requests", _SERVICE),
    _of_usage("services_by_tokens", "Services by tokens", "service", "total_tokens", _SERVICE),
    Ranking(
        "api_keys",
        "API keys by requests",
        "api_key",
        ("total_requests",),
        _API_KEY_PARTS,
        {
            "id": ("usage.api_key_daily.api_key_id",),
            "title": ("usage.api_key_daily.api_key_id",),
            "score": ("usage.api_key_daily.total_requests",),
            **{part: (f"usage.api_key_daily.{part}",) for part in _API_KEY_PARTS},
        },
    ),
)


@dataclass(frozen=True, slots=True)
class RankingReport:
    """The result of replacing a ranking of a date: how many rows it has, and how many of them changed."""

    ranking: Ranking
    ranking_date: date
    rows: int
    changed_rows: int


def replace_ranking(
    connection: psycopg.Connection, ranking: Ranking, day: date, *, settings: Settings
) -> RankingReport:
    """Replaces the ranking of one date, in one transaction on an autocommit connection. A re-run changes nothing."""
    [report] = replace_rankings(connection, ranking, [day], settings=settings)
    return report


def replace_rankings(
    connection: psycopg.Connection, ranking: Ranking, days: Sequence[date], *, settings: Settings
) -> list[RankingReport]:
    """Replaces the ranking of several dates, each once, with one statement. The reports are in the order of the dates.

    If a day has no roll-up yet, or is not over, its ranking is made from what is stored. A ranking may be empty.
    """
    dates = sorted(set(days))
    parameters = ranking_windows(dates, settings)
    with connection.transaction():
        lock_ranking(connection, ranking)
        begin_dates(connection, ranking.table, dates)
        rows = connection.execute(ranking.compose("rollups/replace_ranking"), parameters).fetchall()
        mark_made(connection, ranking.table, dates)
    return [RankingReport(ranking, *row) for row in rows]


def lock_ranking(connection: psycopg.Connection, ranking: Ranking) -> None:
    """Only one transaction at a time replaces or publishes a ranking. Another one waits here, and then sees the result."""
    connection.execute("select pg_advisory_xact_lock(hashtext('ranking'), hashtext(%s))", (ranking.table,))


def read_ranking(connection: psycopg.Connection, ranking: Ranking, day: date | None = None) -> list[dict[str, object]]:
    """The entries of that ranking date, best first. Without `day`: of the newest date that was made. May be an empty list.

    They are cached and served as JSON: names in camelCase, times and dates in ISO 8601 (UTC).
    """
    names = ["rankingDate", "rank", "id", "title", "score", *map(to_camel, ranking.parts)]
    with connection.cursor(row_factory=tuple_row) as cursor:
        parameters = {"day": day, "table_name": ranking.table}
        rows = cursor.execute(ranking.compose("rollups/select_ranking"), parameters).fetchall()
    return [dict(zip(names, map(_plain, row), strict=True)) for row in rows]


def ranking_windows(days: Iterable[date], settings: Settings) -> dict[str, object]:
    """The parameters of a query of candidates: each date once, with the bounds of its seven days."""
    dates = sorted(set(days))
    first_days = [day - timedelta(days=RANKING_DAYS - 1) for day in dates]
    return {
        "dates": dates,
        "first_days": first_days,
        "firsts": [day_window(day, settings.timezone).first for day in first_days],
        "untils": [day_window(day, settings.timezone).end for day in dates],
        "most": RANKING_SIZE,
    }


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return utc_text(value)
    return value.isoformat() if isinstance(value, date) else value

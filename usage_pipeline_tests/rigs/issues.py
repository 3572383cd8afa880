"""Issues of a CSV file: their statistics and rankings recomputed in pandas, without any code of ours, and what is stored."""

import random
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest

from usage_pipeline_tests.rigs.places import REAL_ISSUES

HEADER = "number,created_at,updated_at,closed_at,state,comments,reactions"
DAY = pd.Timedelta(days=1)


def real_file() -> Path:
    """The file of real issues; skips the test where it is not beside the checkout."""
    if not REAL_ISSUES.exists():
        pytest.skip(f"no real issues to test with: {REAL_ISSUES.name} is not in ../shared/data")
    return REAL_ISSUES


def write_issues(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def made_up_file(path: Path, first: date, days: int, *, seed: int = 1) -> Path:
    """Some issues on most of these days, many of them close to midnight, with equal scores here and there."""
    chance = random.Random(seed)
    lines = []
    for number in range(days * 3):
        created = pd.Timestamp(first) + pd.Timedelta(
            seconds=chance.randrange(days * 24 * 12) * 300 - chance.randrange(2)
        )
        closed = created + pd.Timedelta(seconds=chance.randrange(30 * 86_400)) if chance.random() < 0.7 else None
        updated = (closed or created) + pd.Timedelta(seconds=chance.randrange(40 * 86_400))
        state = "closed" if closed else "open"
        lines.append(
            f"{number},{created:%F %T},{updated:%F %T},{f'{closed:%F %T}' if closed else ''},{state},"
            f"{chance.choice([0, 0, 1, 3, 17])},{chance.choice([0, 0, 0, 1, 5])}"
        )
    return write_issues(path, *lines)


def issue_frame(path: Path) -> pd.DataFrame:
    """The lines of the file; times are UTC."""
    frame = pd.read_csv(path, dtype={"number": str, "state": str})
    for column in ("created_at", "updated_at", "closed_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True, format="%Y-%m-%d %H:%M:%S").astype(
            "datetime64[us, UTC]"
        )
    return frame


def comment_frame(issues: pd.DataFrame) -> pd.DataFrame:
    """Comment k of n at created_at + (updated_at - created_at) * k / (n + 1), rounded down to microseconds."""
    microseconds = [issues[column].astype("int64") for column in ("created_at", "updated_at")]
    rows = [
        (f"{number}-{k}", number, created_us + (updated_us - created_us) * k // (count + 1))
        for number, count, created_us, updated_us in zip(
            issues["number"], issues["comments"], *microseconds, strict=True
        )
        for k in range(1, count + 1)
    ]
    frame = pd.DataFrame(rows, columns=["id", "issue_id", "us"])
    frame["created_at"] = pd.to_datetime(frame["us"], unit="us", utc=True)
    return frame


def recomputed_days(path: Path, first: date, last: date, time_zone: str) -> dict[date, tuple[int, int, int]]:
    """Day -> issues created, issues resolved, comments; for each day from the first to the last."""
    issues = issue_frame(path)
    moments = (issues["created_at"], issues["closed_at"].dropna(), comment_frame(issues)["created_at"])
    counts = [at.dt.tz_convert(time_zone).dt.date.value_counts().to_dict() for at in moments]
    days = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    return {day: (counts[0].get(day, 0), counts[1].get(day, 0), counts[2].get(day, 0)) for day in days}


def recomputed_rankings(path: Path, days: Iterable[date], time_zone: str) -> dict[date, list[tuple[Any, ...]]]:
    """Ranking date -> its rows: rank, id, score, views, comments, created at."""
    issues = issue_frame(path)
    comments = comment_frame(issues)
    issues["day"], comments["day"] = (
        frame["created_at"].dt.tz_convert(time_zone).dt.date.map(date.toordinal) for frame in (issues, comments)
    )
    days_of = {issue: group.to_numpy() for issue, group in comments.groupby("issue_id")["day"]}
    created_on: dict[int, list[tuple[Any, ...]]] = {}
    for day, *issue in zip(*(issues[name] for name in ("day", "number", "reactions", "created_at")), strict=True):
        created_on.setdefault(day, []).append(tuple(issue))
    return {day: _ranking(created_on, days_of, day.toordinal()) for day in days}


def _ranking(created_on: dict[int, list[tuple[Any, ...]]], days_of: dict[str, Any], last: int) -> list[tuple[Any, ...]]:
    found = []
    for day in range(last - 6, last + 1):
        for number, views, created_at in created_on.get(day, []):
            written = int((days_of.get(number, np.array([])) <= last).sum())
            found.append((number, views + written, views, written, created_at.to_pydatetime()))
    # Stable sorts, the least important first: by id as bytes, newer first, highest score first.
    found.sort(key=lambda row: row[0].encode())
    found.sort(key=lambda row: row[-1], reverse=True)
    found.sort(key=lambda row: row[1], reverse=True)
    return [(rank, *row) for rank, row in enumerate(found[:10], start=1)]


def stored_days(postgres: psycopg.Connection) -> dict[date, tuple[int, int, int]]:
    query = "select date, created_count, resolved_count, comment_count from stats.daily_issue_stats order by date"
    return {day: (created, resolved, comments) for day, created, resolved, comments in postgres.execute(query)}


def stored_rankings(postgres: psycopg.Connection) -> dict[date, list[tuple[Any, ...]]]:
    """Ranking dates that have rows."""
    columns = "ranking_date, rank, id, score, view_count, comment_count, created_at"
    found: dict[date, list[tuple[Any, ...]]] = {}
    for day, *row in postgres.execute(f"select {columns} from stats.popular_issues order by 1, 2"):
        found.setdefault(day, []).append(tuple(row))
    return found


def row_versions(postgres: psycopg.Connection, table: str) -> list[tuple[Any, ...]]:
    """What tells a row that was written anew from one that was left alone."""
    return postgres.execute(f"select ctid::text, xmin::text from {table} order by 1").fetchall()

"""How long questions of `usage_pipeline.explore` take over millions of events that are rolled up.

Run: python -m benchmarks.explore [--days N] [--users N] [--repeats N] [--json]
"""

import argparse
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta

import psycopg
from rich.table import Table

from benchmarks.explore_events import DAYS, EVENTS, FIRST_DAY, write_events
from benchmarks.harness import add_repeats, measure_in_turns, medians, own_servers, parsed, say, show, table_of
from usage_pipeline.explore.limits import TooMuchToRead, expect_readable
from usage_pipeline.explore.questions import Days, Order, Question
from usage_pipeline.explore.reading import read
from usage_pipeline.explore.sources import Grain
from usage_pipeline.explore.terms import METRIC_BY_NAME, dimensions_of
from usage_pipeline.rollups.window_tables import GROUP
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

_COST = ("requests", "total_tokens", "cost_usd")
_PERCENTILES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question over the last `days`; `aim_ms` is how long it may take."""

    title: str
    days: int
    grain: Grain
    group_by: tuple[str, ...]
    metrics: tuple[str, ...]
    aim_ms: int
    filters: tuple[tuple[str, str], ...] = ()

    def question(self, all_days: int) -> Question:
        last = FIRST_DAY + timedelta(days=all_days - 1)
        first = max(FIRST_DAY, last - timedelta(days=self.days - 1))
        groups = dimensions_of(*self.group_by)
        kept = tuple((dimension, (value,)) for name, value in self.filters for dimension in dimensions_of(name))
        metrics = tuple(METRIC_BY_NAME[name] for name in self.metrics)
        order = Order(self.metrics[-1], True) if self.grain == "total" and groups else None
        return Question(Days(first, last), self.grain, groups, metrics, kept, order=order)


ASKED = (
    _Asked("180 days by day and team", 180, "day", ("team",), _COST, 150),
    _Asked("top 50 users of 30 days", 30, "total", ("user",), _COST, 300),
    _Asked("top 50 users of a service, 7 days", 7, "total", ("user",), _COST, 2_000, (("service", "service-1"),)),
    _Asked("30 days by API key", 30, "total", ("api_key",), _COST, 2_000),
    _Asked("30 days, p50, p95, p99", 30, "day", (), _PERCENTILES, 2_000),
    _Asked("30 days by team, p95", 30, "day", ("team",), ("latency_p95_ms",), 2_000),
    _Asked("30 days, distinct users", 30, "day", (), ("distinct_users",), 2_000),
    _Asked("180 days by month, distinct users", 180, "month", ("team",), ("distinct_users",), 2_000),
    # About as much as may be asked (`explore/limits.py`).
    _Asked("180 days by user", 180, "total", ("user",), _COST, 2_000),
    _Asked("45 days by user and day", 45, "day", ("user",), _COST, 2_000),
    _Asked("13 days by user and model", 13, "total", ("user", "model"), _COST, 2_000),
    _Asked("80 days by day, API key and all", 80, "day", (*GROUP, "api_key"), _COST, 2_000),
    _Asked("180 days by day, percentiles", 180, "day", (), _PERCENTILES, 2_000),
    _Asked("180 days by team, percentiles", 180, "total", ("team",), _PERCENTILES, 2_000),
    _Asked("30 days by model and team, percentiles", 30, "total", ("model", "team"), _PERCENTILES, 2_000),
    _Asked("10 days by day, model and team, percentiles", 10, "day", ("model", "team"), _PERCENTILES, 2_000),
    _Asked("180 days by error type", 180, "day", ("error_type",), ("errors",), 2_000),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats, in milliseconds; None where the question is refused since it would read too much."""

    events: int
    repeats: int
    ms: dict[str, float | None]


def measure(connection: psycopg.Connection, settings: Settings, days: int, repeats: int) -> Result:
    """All questions in turns, `repeats` times after a warm-up that is not counted."""
    questions = {one.title: one.question(days) for one in ASKED}
    refused = {title for title, question in questions.items() if not _is_readable(connection, question)}

    def asking(question: Question) -> float:
        started = time.perf_counter()
        read(connection, question, settings.timezone, 50)
        return 1 / (time.perf_counter() - started)

    subjects = {
        title: (lambda question=question: asking(question))
        for title, question in questions.items()
        if title not in refused
    }
    rates = measure_in_turns(subjects, repeats=repeats, settle=lambda: None)
    ms = {title: 1_000 / a_second for title, a_second in medians(rates).items()}
    return Result(EVENTS // DAYS * days, repeats, {title: ms.get(title) for title in questions})


def _is_readable(connection: psycopg.Connection, question: Question) -> bool:
    try:
        expect_readable(connection, question)
    except TooMuchToRead:
        return False
    return True


def table(result: Result) -> Table:
    """What was measured, as a person reads it."""
    shown = table_of(f"{result.events:,} events; medians of {result.repeats}", "question", "ms", "aim")
    for one in ASKED:
        ms = result.ms[one.title]
        shown.add_row(one.title, "refused" if ms is None else f"{ms:,.0f}", f"{one.aim_ms:,}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=DAYS, help="days of events; 180 are 20 million")
    parser.add_argument("--users", type=int, default=20_000, help="different users")
    add_repeats(parser)
    chosen = parsed(parser)
    if not 1 <= chosen.days <= DAYS or min(chosen.users, chosen.repeats) < 1:
        parser.error(f"--days must be 1 to {DAYS}, --users and --repeats at least 1")
    with own_servers() as settings, closing(connect(settings)) as connection:
        write_events(connection, settings, chosen.days, chosen.users, say)
        result = measure(connection, settings, chosen.days, chosen.repeats)
    show(asdict(result), [table(result)], as_json=chosen.json)


if __name__ == "__main__":
    main()

"""What the commands print: tables and JSON on standard output, progress on a terminal."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from usage_pipeline.local.demo.run import DemoResult
    from usage_pipeline.merchants.counters import CounterKey
    from usage_pipeline.merchants.status import DayStatus


def print_json(document: Any) -> None:
    """One JSON document; sets are sorted, and what JSON does not know is its text."""

    def known(value: Any) -> Any:
        return sorted(value) if isinstance(value, set) else list(value) if isinstance(value, map) else str(value)

    print(json.dumps(document, default=known, ensure_ascii=False))


def print_table(title: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """A table with numbers to the right; without rows, its title alone."""
    if not rows:
        Console().print(f"{title}.", markup=False)
        return
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        is_number = all(isinstance(row[position], int) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console().print(table)


def _cell(value: Any) -> Text:
    """As plain text: what came out of Redis must not be read as markup."""
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else str(value))


@contextmanager
def progress(is_quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line that changes on a terminal; elsewhere, or with JSON on standard output, nothing."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as line:
        yield line.update


def print_demo(result: "DemoResult") -> None:
    """The comparison of both sides, and where to look next."""
    console = Console()
    columns = ["family", "written", "stored", "refused", "difference"]
    rows = [(found.family, found.written, found.stored, found.refused, found.difference) for found in result.families]
    print_table("Written while drains ran, and what became of it", columns, rows)
    verdict = "nothing lost, nothing counted twice" if result.difference == 0 else "this is a bug: please report it"
    console.print(f"Difference {result.difference} over all counts of all keys: {verdict}.")
    console.print(
        f"{result.requests:,} requests (5 records each) and {result.events_sent:,} usage events over HTTP (each tenth twice); "
        f"{result.drains} drains ({result.drains_while_writing} while writing), the largest one at "
        f"{result.keys_per_second:,.0f} keys a second; {result.seconds:.0f} s in all."
    )
    days = f"{result.days[0]} to {result.days[-1]}" if result.days else "none"
    outcome = "materialized" if result.are_days_materialized else "NOT all materialized"
    console.print(f"Daily partitions {outcome}: {days}.")
    console.print("Next: `usage-pipeline dev` opens these data in the Dagster UI; README.md says what to look at.")


def print_status(found: "DayStatus") -> None:
    """Stored metrics of a day, when they were aggregated, and what is missing."""
    metrics = [(metric.metric_type, metric.merchants, metric.total, metric.updated_at) for metric in found.metrics]
    print_table(f"Merchant usage of {found.day}", ["metric", "merchants", "total", "last change"], metrics)
    last = found.last_aggregation
    when = (
        f"last aggregated {last.applied_at:%Y-%m-%d %H:%M:%S %Z} from {last.keys:,} keys"
        if last
        else "never aggregated"
    )
    Console().print(f"{when}; {found.keys_in_redis:,} keys in Redis now, {found.refused:,} of them refused.")
    missing = [(*counter_cells(one.key), one.reads, one.stored) for one in found.missing]
    print_table(
        f"{found.missing_count:,} counters not stored as they read",
        ["merchant", "date", "metric", "reads", "stored"],
        missing,
    )
    regressions = [
        (one.merchant_id, one.metric_type, one.stored_value, one.counter_value, one.detected_at)
        for one in found.regressions
    ]
    print_table(
        f"{found.regression_count:,} open regressions",
        ["merchant", "metric", "stored", "reads", "detected"],
        regressions,
    )


def counter_cells(key: "CounterKey") -> tuple[str, date, str]:
    """Merchant, date and metric of a counter, as cells."""
    return key.merchant_id, key.day, key.metric_type

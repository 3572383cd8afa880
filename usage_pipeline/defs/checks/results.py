"""What all checks share: the days that they look at, and the result that they show."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

import dagster as dg

from usage_pipeline.defs.partitions.calendar import run_days
from usage_pipeline.settings import Settings

# Connection, first and last day, settings -> what is wrong, and numbers to tell. The connection is the domain's affair.
Find = Callable[[Any, date, date, Settings], list[str]]
Numbers = Callable[[Any, date, date, Settings], Mapping[str, float]]
# A check reads: one that takes longer than this is worth a look, and keeps others waiting.
CHECK_SECONDS = 300
_RECENT_DAYS = 3
# A run of the daily tables has no more days; one of weeks or months begins on that many at most.
_MOST_DAYS_OF_A_RUN = 31
# What is wrong at one place is mostly wrong at many, and an event row is no place for a report.
SHOWN_FAULTS = 10


def faults_result(
    faults: Sequence[str],
    *,
    severity: dg.AssetCheckSeverity,
    name: str | None = None,
    asset: dg.AssetKey | None = None,
    numbers: Mapping[str, float] = MappingProxyType({}),
) -> dg.AssetCheckResult:
    """A result that passes without faults. Its metadata has the number of `mismatches`, other `numbers`, which Dagster plots
    over time, and a table of the first ten faults with keys and days.

    A table, and no Markdown: faults have names from outside, which the web page would render with the rights of its user.
    """
    shown = list(faults[:SHOWN_FAULTS])
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    found = dg.MetadataValue.table([dg.TableRecord({"problem": fault}) for fault in shown]) if shown else None
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset,
        passed=not faults,
        severity=severity,
        description=f"Problems found: {len(faults)}, see `found`." if faults else "Passed: no problem found.",
        metadata={"mismatches": len(faults), **numbers, **({"found": found} if found else {})},
    )


def of_all_spans(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The numbers of all spans of days together: rows add up, and of ages the longest counts."""
    together: dict[str, float] = {}
    for one in numbers:
        for name, number in one.items():
            before = together.get(name, 0)
            together[name] = max(before, number) if name == "age_seconds" else before + number
    return together


def checked_spans(tags: Mapping[str, str], today: date) -> list[tuple[date, date]]:
    """The last days, and before them the days of the run's partitions, unless these are among the last days."""
    recent = (today - timedelta(days=_RECENT_DAYS - 1), today)
    # Every key begins with its day: 2026-10-25, 2026-10-25-02:00+0100.
    days = run_days(tags)
    if not days or recent[0] <= min(days) <= max(days) <= recent[1]:
        return [recent]
    first, last = min(days), max(days)
    return [(first, min(last, first + timedelta(days=_MOST_DAYS_OF_A_RUN))), recent]

"""The report of an aggregation of merchant counters, as values and as the JSON of contracts §6. No I/O."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

# Of what a report lists, so that a lost Redis does not make a report of a million lines.
MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class DayReport:
    """One aggregated day. `keys_found` = `records_aggregated` + `regressions` + `dead_letters`.

    `regressions` and `dead_letters` count all faults of the day's keys, old and new ones. `errors` lists the first MOST_LISTED.
    """

    day: date
    keys_found: int
    inserted: int
    raised: int
    unchanged: int
    regressions: int
    dead_letters: int
    rows_stored_before: int
    errors: tuple[str, ...] = ()

    @property
    def records_aggregated(self) -> int:
        """Counters that were read, and whose value is in `usage.merchant_usage`."""
        return self.inserted + self.raised + self.unchanged

    @property
    def has_expired(self) -> bool:
        """Whether Redis has no counter of the day any more, while rows are stored. These rows stay as they are."""
        return self.keys_found == 0 and self.rows_stored_before > 0

    @property
    def note(self) -> str | None:
        """A line for the reader if nothing was found."""
        if self.keys_found:
            return None
        if self.has_expired:
            return f"{self.day}: Redis has no counters any more; the {self.rows_stored_before} stored rows stay"
        return f"{self.day}: Redis has no counters, and none are stored"

    def as_json(self) -> dict[str, Any]:
        """The five members of contracts §6, then more members."""
        return _document(self.day.isoformat(), self.keys_found, self.records_aggregated, self.errors) | {
            "inserted": self.inserted,
            "raised": self.raised,
            "unchanged": self.unchanged,
            "regressions": self.regressions,
            "dead_letters": self.dead_letters,
            "rows_stored_before": self.rows_stored_before,
            "has_expired": self.has_expired,
        }


@dataclass(frozen=True, slots=True)
class AggregationReport:
    """All days of one aggregation, sorted. `malformed_dates` counts keys without a valid day.

    `errors` lists those of keys without a valid day and of late days. `late_days` changed, though nobody asked for them.
    """

    days: tuple[DayReport, ...]
    merchant_id: str | None
    malformed_dates: int
    errors: tuple[str, ...]
    seconds: float
    late_days: tuple[DayReport, ...] = ()

    @property
    def keys_found(self) -> int:
        return sum(day.keys_found for day in self.days)

    @property
    def records_aggregated(self) -> int:
        return sum(day.records_aggregated for day in self.days)

    @property
    def all_errors(self) -> tuple[str, ...]:
        """Errors of the days, then of keys without one and of late days."""
        return tuple(error for day in self.days for error in day.errors) + self.errors

    @property
    def is_success(self) -> bool:
        """Whether every key found is stored as it reads."""
        return not self.all_errors

    def as_json(self) -> dict[str, Any]:
        """One document as in contracts §6. Several days: the sums, `date` as first/last, and each day under `days`."""
        if len(self.days) == 1:
            document = self.days[0].as_json()
            return document | {"success": self.is_success, "errors": list(self.all_errors)}
        span = f"{self.days[0].day}/{self.days[-1].day}"
        return _document(span, self.keys_found, self.records_aggregated, self.all_errors) | {
            "days": [day.as_json() for day in self.days]
        }


@dataclass(slots=True)
class ErrorList:
    """Collects readable errors: all are counted, the first MOST_LISTED are kept."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, error: str) -> None:
        self.count += 1
        if len(self.first) < MOST_LISTED:
            self.first.append(error)

    def listed(self) -> tuple[str, ...]:
        more = self.count - len(self.first)
        return (*self.first, *([f"… and {more} more"] if more else []))


def _document(span: str, keys_found: int, records_aggregated: int, errors: tuple[str, ...]) -> dict[str, Any]:
    return {
        "success": not errors,
        "date": span,
        "keys_found": keys_found,
        "records_aggregated": records_aggregated,
        "errors": list(errors),
    }

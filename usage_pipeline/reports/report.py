"""A report: which days it is about, what it is compared with, and what it is called."""

from dataclasses import dataclass
from datetime import timedelta

from usage_pipeline.explore.questions import Compare, Days, compared
from usage_pipeline.rollups.calendar import Window


@dataclass(frozen=True, slots=True)
class Report:
    """The report of a week or a month that ended."""

    window: Window

    @property
    def days(self) -> Days:
        return Days(self.window.day, self.window.next_day - timedelta(days=1))

    @property
    def compare(self) -> Compare:
        return "previous" if self.window.grain == "week" else "month_before"

    @property
    def days_before(self) -> Days:
        """The week or the month before."""
        return compared(self.days, self.compare)

    @property
    def name(self) -> str:
        """The beginning of its files' names, such as `usage-month-2026-10` or `usage-week-2026-10-05`."""
        return f"usage-{self.window.grain}-{self._key}"

    @property
    def title(self) -> str:
        return f"LLM usage, {self.period}"

    @property
    def period(self) -> str:
        """The week or month, for people."""
        day = self.window.day
        return f"{day:%B %Y}" if self.window.grain == "month" else f"week of {day:%Y-%m-%d}"

    @property
    def _key(self) -> str:
        day = self.window.day
        return f"{day:%Y-%m}" if self.window.grain == "month" else f"{day:%Y-%m-%d}"

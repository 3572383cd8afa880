"""Which usage events the demo makes up, and what becomes of each: sent in time, sent late, or sent wrong and put right."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from usage_pipeline.local.demo.changes import Mistake, mistake_among
from usage_pipeline.local.traffic.services import SentEvent, made_up_usage
from usage_pipeline.rollups.calendar import month_of
from usage_pipeline.settings import Settings

# Two months, which have a cost each.
_DAYS = 45
_EVENTS = 6_000
_LATE_EVENTS, _LATE_DAYS_AGO = 20, 3


@dataclass(frozen=True, slots=True)
class Planned:
    """What becomes of the events: most are sent, one of them wrong and put right later; a few come after their day is closed.

    Dagster makes the hours from `first_hour_day` on.
    """

    sent: list[SentEvent]
    late: list[SentEvent]
    mistake: Mistake | None
    days: list[date]
    first_hour_day: date

    @classmethod
    def of(cls, events: list[SentEvent], today: date, settings: Settings, *, hour_days: int) -> "Planned":
        late_day = today - timedelta(days=_LATE_DAYS_AGO)
        late = [one for one in events if one.day(settings.timezone) == late_day][-_LATE_EVENTS:]
        mistake = mistake_among(events, today, settings)
        held_back = {one.event["event_id"] for one in late}
        sent = [one for one in events if one.event["event_id"] not in held_back]
        if mistake is not None:
            sent = [mistake.wrong if one.event["event_id"] == mistake.event_id else one for one in sent]
        days = sorted({one.day(settings.timezone) for one in events})
        return cls(sent, late, mistake, days, today - timedelta(days=hour_days - 1))

    @property
    def changed(self) -> list[SentEvent]:
        """What changes after its day was rolled up."""
        return [*self.late, *([self.mistake.right] if self.mistake else [])]

    @property
    def right(self) -> list[SentEvent]:
        """All events as they are at the end."""
        return [*(one for one in self.sent if not self.mistake or one is not self.mistake.wrong), *self.changed]


def made_up_events(seed: int, now: datetime, settings: Settings, mark: str) -> list[SentEvent]:
    """Events of this month and of the one before, up to now, and as far back as events are taken."""
    today = now.astimezone(settings.timezone).date()
    month_before = month_of(month_of(today) - timedelta(days=1))
    first = max(
        today - timedelta(days=_DAYS - 1),
        month_before,
        settings.usage_start_date,
        # The edge of what is taken goes through the day before.
        today - timedelta(days=settings.retention_days - 1),
    )
    days = [first + timedelta(days=ahead) for ahead in range((today - first).days + 1)]
    return made_up_usage(seed, _EVENTS, days, now=now, zone=settings.timezone, mark=mark)


def as_sent(event: dict[str, Any]) -> SentEvent:
    return SentEvent(event, {name: event[name] for name in ("input_tokens", "output_tokens")})

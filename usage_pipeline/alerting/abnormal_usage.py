"""Whether an API key or token is used far more in an hour than in its own history: a robust z-score. Pure.

It uses the median and the median absolute deviation (MAD): outliers do not move them, but do move a mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from statistics import median

from usage_pipeline.settings import Settings

HISTORY_HOURS = 14 * 24
# A key that is new, or came back, has no history to be outside of.
LEAST_HOURS = 48
# MAD of a normal distribution times this is its standard deviation.
_MAD_TO_DEVIATION = 1.4826
# The deviation is taken for at least: so much of the median (a steady key is not abnormal at a third more), what chance
# alone makes of a count, and so many uses (an idle key is not abnormal at ten).
_LEAST_SHARE_OF_MEDIAN = 0.2
_LEAST_DEVIATION = 5.0
# A nightly job is idle in its median hour: so the hour must also be so many times what its own busy hours are. At the 98th
# percentile six hours of a past incident hide no new one.
_BUSY_PERCENTILE = 0.98
_TIMES_BUSY_HOURS = 2.0


@dataclass(frozen=True, slots=True)
class UsageHour:
    """A past hour of an API key or token, and its hours before that, at most HISTORY_HOURS. An idle hour is a zero."""

    family: str
    id: str
    hour_start: datetime
    uses: int
    history: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far an hour is from its own median, in robust standard deviations, and whether that is an alert."""

    score: float
    median: float
    busy: int
    is_abnormal: bool


def judge(hour: UsageHour, *, least_score: float, least_uses: int) -> Verdict:
    """Judges spikes only. A key that falls silent shows in the reports, and is as often a holiday as a fault."""
    if len(hour.history) < LEAST_HOURS:
        return Verdict(0.0, 0.0, 0, False)
    middle = float(median(hour.history))
    deviation = max(robust_deviation(hour.history), sqrt(middle), _LEAST_DEVIATION)
    score = (hour.uses - middle) / deviation
    busy = _percentile(hour.history, _BUSY_PERCENTILE)
    is_abnormal = hour.uses >= least_uses and score > least_score and hour.uses > _TIMES_BUSY_HOURS * busy
    return Verdict(score, middle, busy, is_abnormal)


def is_abnormal(hour: UsageHour, settings: Settings) -> bool:
    """By the settings of the alerts."""
    return judge(hour, least_score=settings.alert_usage_score, least_uses=settings.alert_usage_floor).is_abnormal


def robust_deviation(values: Sequence[float]) -> float:
    """The standard deviation by the MAD, at least a fifth of the median."""
    middle = median(values)
    mad = median(abs(value - middle) for value in values)
    return max(_MAD_TO_DEVIATION * mad, _LEAST_SHARE_OF_MEDIAN * middle)


def _percentile(values: Sequence[int], share: float) -> int:
    """The nearest value that really occurred."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]

"""What an evaluation remembers for the next one. It is stored with the heartbeat. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from statistics import median
from typing import Any

from usage_pipeline.alerting.facts import BacklogAge, FailedCheck, RedisLoad

# One sample a minute; a median of fewer than ten would follow a surge too soon.
SAMPLES = 60
LEAST_SAMPLES = 10
_SAMPLE_SECONDS = 55.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits of a family at one look, and when a batch of it was last stored (epoch seconds; None: never)."""

    family: str
    waiting: int
    open_batches: int
    oldest_open_seconds: float
    last_stored_at: float | None
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory and keys of Redis at a time (epoch seconds)."""

    at: float
    memory_bytes: int
    keys: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Since when each family waits, the samples of Redis, and the last hour and day of usage that were judged (ISO).

    `waiting_days` are earlier days that are not judged yet: they were not rolled up. `red_since`: since when each check is red.
    """

    waiting_since: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    judged_hour: str = ""
    judged_day: str = ""
    waiting_days: tuple[str, ...] = ()
    red_since: Mapping[str, float] = field(default_factory=dict)

    def after_waiting(self, looks: Iterable[Waiting], now: float) -> "Memory":
        """The memory after a look at what waits. A waiting key has no time stamp. If something waits at two looks and no batch
        was stored between them, it waited all the time. If a batch was stored, what waits may be new: the time begins again.
        """
        since = {}
        for look in looks:
            if look.waiting:
                begun = self.waiting_since.get(look.family, now)
                since[look.family] = now if look.last_stored_at is not None and look.last_stored_at >= begun else begun
        return replace(self, waiting_since=since)

    def ages(self, looks: Iterable[Waiting], now: float) -> tuple[BacklogAge, ...]:
        """The age of each family's backlog. Call `after_waiting` with the same look before."""
        return tuple(
            BacklogAge(
                look.family,
                look.waiting,
                look.open_batches,
                max(now - self.waiting_since.get(look.family, now), look.oldest_open_seconds),
                look.interval_seconds,
            )
            for look in looks
        )

    def after_checks(self, found: Iterable[FailedCheck]) -> tuple[tuple[FailedCheck, ...], "Memory"]:
        """The checks that are red, each since it was first seen so, and the memory of that."""
        red = tuple(
            replace(one, since=datetime.fromtimestamp(self.red_since.get(_name(one), one.since.timestamp()), UTC))
            for one in found
        )
        return red, replace(self, red_since={_name(one): one.since.timestamp() for one in red})

    def after_sample(self, sample: Sample) -> "Memory":
        if self.samples and sample.at - self.samples[-1].at < _SAMPLE_SECONDS:
            return self
        recent = [one for one in self.samples if sample.at - one.at <= 2 * SAMPLES * 60]
        return replace(self, samples=(*recent, sample)[-SAMPLES:])

    def load(self, sample: Sample, most_memory_bytes: int) -> RedisLoad:
        """The size of Redis now, and the usual size according to the earlier samples."""
        usual_memory = usual_keys = None
        if len(self.samples) >= LEAST_SAMPLES:
            usual_memory = round(median(one.memory_bytes for one in self.samples))
            usual_keys = round(median(one.keys for one in self.samples))
        return RedisLoad(sample.memory_bytes, most_memory_bytes, sample.keys, usual_memory, usual_keys)

    def as_json(self) -> dict[str, Any]:
        return {
            "waiting_since": dict(self.waiting_since),
            "samples": [[one.at, one.memory_bytes, one.keys] for one in self.samples],
            "judged_hour": self.judged_hour,
            "judged_day": self.judged_day,
            "waiting_days": [*self.waiting_days],
            "red_since": dict(self.red_since),
        }

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> "Memory":
        """The inverse of `as_json`; an empty document is no memory. Raises ValueError, TypeError or AttributeError."""
        judged_hour = document.get("judged_hour", "")
        if judged_hour and datetime.fromisoformat(judged_hour).tzinfo is None:
            raise ValueError(f"judged_hour: expected a time with an offset, came {judged_hour}")
        judged_day = document.get("judged_day", "")
        waiting_days = tuple(document.get("waiting_days", ()))
        for day in (*waiting_days, *([judged_day] if judged_day else [])):
            date.fromisoformat(day)
        return cls(
            {family: float(at) for family, at in document.get("waiting_since", {}).items()},
            tuple(Sample(float(at), int(memory), int(keys)) for at, memory, keys in document.get("samples", [])),
            judged_hour,
            judged_day,
            waiting_days,
            {check: float(at) for check, at in document.get("red_since", {}).items()},
        )


def _name(check: FailedCheck) -> str:
    return f"{check.asset}:{check.check}"

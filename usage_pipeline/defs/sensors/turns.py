"""Which of many partitions a sensor asks for in a tick, so that those that cannot be made never keep others waiting.

The sensor's cursor remembers what was asked for. Each new attempt of a partition waits twice as long as the one before.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from usage_pipeline.texts import counted

MOST_PER_TICK = 25
# Of these, for what was asked for before: so many new ones at a time would keep the others waiting for ever.
_PLACES_FOR_REPEATS = 5
# Run keys have the hour in them, and Dagster drops a key that it has seen: an attempt sooner would be none.
_FIRST_WAIT, _LONGEST_WAIT = timedelta(hours=1), timedelta(hours=24)
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Turn:
    """What to ask for now, in the order of `wanted`; the cursor to store; what waits after attempts in vain, or ""."""

    ids: tuple[str, ...]
    cursor: str
    waiting: str


@dataclass(frozen=True, slots=True)
class _Asked:
    version: str
    times: int
    at: datetime

    @property
    def next_at(self) -> datetime:
        doublings = min(self.times - 1, 10)
        return self.at + min(_FIRST_WAIT * int(2**doublings), _LONGEST_WAIT)


def take_turn(wanted: Mapping[str, str], cursor: str | None, now: datetime, most: int = MOST_PER_TICK) -> Turn:
    """Chooses at most `most` of `wanted`, which maps each id to its version, in the order of their worth.

    What was never asked for comes first. What was asked for in vain comes again after one hour, then after two, four, … up to
    a day, and at once when its version is another. What is not wanted any more is forgotten.
    """
    asked = {name: one for name, one in _read(cursor).items() if name in wanted}
    new = [name for name in wanted if name not in asked]
    again = [name for name, one in asked.items() if one.version != wanted[name] or one.next_at <= now]
    again.sort(key=lambda name: asked[name].at)
    repeats = again[: max(min(_PLACES_FOR_REPEATS, most), most - len(new))]
    chosen = {*new[: most - len(repeats)], *repeats}
    for name in chosen:
        asked[name] = _Asked(wanted[name], asked[name].times + 1 if name in asked else 1, now)
    remembered = {name: asked[name] for name in wanted if name in asked}
    stored = {name: [one.version, one.times, int(one.at.timestamp())] for name, one in remembered.items()}
    return Turn(tuple(name for name in wanted if name in chosen), json.dumps(stored), _said(remembered))


def _read(cursor: str | None) -> dict[str, _Asked]:
    stored = json.loads(cursor or "{}")
    return {
        name: _Asked(version, times, datetime.fromtimestamp(at, UTC)) for name, (version, times, at) in stored.items()
    }


def _said(asked: Mapping[str, _Asked]) -> str:
    in_vain = [(name, one) for name, one in asked.items() if one.times > 1]
    if not in_vain:
        return ""
    named = "; ".join(
        f"{name}: {counted(one.times, 'time')}, again from {one.next_at:%Y-%m-%d %H:%M}Z"
        for name, one in in_vain[:_NAMED]
    )
    more = f"; and {len(in_vain) - _NAMED} more" if len(in_vain) > _NAMED else ""
    return f"Asked for in vain, see their runs: {named}{more}."


def asked(
    context: dg.SensorEvaluationContext, turn: Turn, requests: Sequence[dg.RunRequest], nothing: str
) -> dg.SensorResult:
    """The result of a tick. What waits after attempts in vain is in its log, or in its message when it asks for nothing."""
    if requests:
        if turn.waiting:
            context.log.warning(turn.waiting)
        return dg.SensorResult(run_requests=list(requests), cursor=turn.cursor)
    return dg.SensorResult(skip_reason=turn.waiting or nothing, cursor=turn.cursor)

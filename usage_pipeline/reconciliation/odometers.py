"""Which odometers the reconciliation looks at, and what they recorded.

What was recorded after the last look and was lost before the next one is in no odometer that we saw: nothing can show it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import psycopg

from usage_pipeline.merchants.counters import Reader, open_servers
from usage_pipeline.odometers.look import look_at
from usage_pipeline.reconciliation.balance import Amounts
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load
from usage_pipeline.values import from_ms

# The odometer of a day lives 35 days after its last record.
DAYS_BACK = 33
# A record may be up to 23 hours ahead of its clock.
DAYS_AHEAD = 1


@dataclass(frozen=True, slots=True)
class Odometers:
    """Amounts by family and day. `recorded` is all that was ever seen; `forgotten` is the part that Redis has not now.

    `surplus` has what was stored beyond what was recorded before an odometer first forgot something.
    """

    recorded: Amounts = field(default_factory=Counter)
    forgotten: Amounts = field(default_factory=Counter)
    surplus: Amounts = field(default_factory=Counter)


def days_around(today: date) -> list[date]:
    """The days whose odometers are looked at, oldest first."""
    return [today + timedelta(days=offset) for offset in range(-DAYS_BACK, DAYS_AHEAD + 1)]


def read_odometers(postgres: psycopg.Connection, redis: Reader, days: Sequence[date]) -> Odometers:
    """Looks at the odometers of these days. Raises redis.RedisError when Redis refuses to read."""
    found = Odometers()
    for place, one in look_at(postgres, redis, days).items():
        found.recorded[place] = one.recorded
        found.forgotten[place] = one.forgotten
    for family, day, surplus in postgres.execute(load("reconciliation/select_surplus"), {"days": list(days)}):
        found.surplus[family, day] = int(surplus)
    return found


def note_odometers(settings: Settings) -> Odometers:
    """Looks at the odometers, and at nothing else: some milliseconds. Raises PostgresUnavailable or RedisUnavailable."""
    with open_servers(settings) as (postgres, redis):
        today = from_ms(redis.now_ms()).astimezone(settings.timezone).date()
        return read_odometers(postgres, redis, days_around(today))

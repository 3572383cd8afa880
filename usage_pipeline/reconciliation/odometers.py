"""Keeps what the odometers in Redis counted, in PostgreSQL: a Redis that comes back from an old file brings its old odometer.

What was recorded after the last look and was lost before the next one is in no odometer that we saw: nothing can show it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import psycopg

from usage_pipeline.merchants.counters import Reader, open_servers
from usage_pipeline.reconciliation.balance import Amounts
from usage_pipeline.reconciliation.redis_look import read_odometer
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load
from usage_pipeline.values import from_ms

# The odometer of a day lives 35 days after its last record.
DAYS_BACK = 33
# A record may be up to 23 hours ahead of its clock.
DAYS_AHEAD = 1


@dataclass(frozen=True, slots=True)
class Odometers:
    """Amounts by family and day. `recorded` is all that was ever seen; `forgotten` is the part that Redis has lost since.

    `surplus` has what was stored beyond what was recorded before an odometer first fell.
    """

    recorded: Amounts = field(default_factory=Counter)
    forgotten: Amounts = field(default_factory=Counter)
    surplus: Amounts = field(default_factory=Counter)


def days_around(today: date) -> list[date]:
    """The days whose odometers are looked at, oldest first."""
    return [today + timedelta(days=offset) for offset in range(-DAYS_BACK, DAYS_AHEAD + 1)]


def read_odometers(postgres: psycopg.Connection, redis: Reader, days: Sequence[date]) -> Odometers:
    """Reads the odometers of these days from Redis, notes how they changed, and adds what they forgot before.

    The connection to PostgreSQL is in autocommit mode.
    """
    with postgres.transaction():
        # Before Redis is read: otherwise an older reading could be noted later, and look like a fall.
        postgres.execute("select pg_advisory_xact_lock(hashtext('odometers'), 0)")
        counted = read_odometer(redis, days)
        arguments = {
            "families": [family for family, _ in counted],
            "days": [day for _, day in counted],
            "counts": list(counted.values()),
        }
        postgres.execute(load("reconciliation/note_odometers"), arguments)
        rows = postgres.execute(load("reconciliation/select_odometers"), {"days": list(days)}).fetchall()
    found = Odometers()
    for family, day, now, forgotten, surplus in rows:
        found.recorded[family, day] = int(now + forgotten)
        found.forgotten[family, day] = int(forgotten)
        found.surplus[family, day] = int(surplus or 0)
    return found


def note_odometers(settings: Settings) -> Odometers:
    """Looks at the odometers, and at nothing else: some milliseconds. Raises PostgresUnavailable or RedisUnavailable."""
    with open_servers(settings) as (postgres, redis):
        today = from_ms(redis.now_ms()).astimezone(settings.timezone).date()
        return read_odometers(postgres, redis, days_around(today))

"""Rows that are stored, rolled up, archived, dropped and read back in any order, and the books of all that was ever stored.

The books know nothing of partitions and marks: they hold every event and delta, and add them up themselves.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import hiredis
import psycopg
import redis

from usage_pipeline.drain.dead_letters import replay
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.store import UsageStore
from usage_pipeline.rollups.calendar import (
    GRAINS,
    Window,
    day_window,
    hour_window,
    month_of,
    week_of,
    window_at,
    window_on,
)
from usage_pipeline.rollups.daily import SourceGoneError, current_day
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.lifecycle.report import LifecycleReport
from usage_pipeline_tests.rigs.windows import event_at, store_events
from usage_pipeline_tests.rollups.dropped.days import BY_FAMILY, make_again, read_back, roll_up_stale_days, stored_days
from usage_pipeline_tests.storage.lifecycle_rig import age_restores

# Days ago of what is stored. What a lifecycle drops or archives is a matter of its settings alone.
OLDEST, YOUNGEST = 14, 9
# A request of rigs.windows.event_at.
_COST = Decimal("0.01")
_TOKENS = 2_500
_GROUPS = ("search", "billing")
Numbers = dict[tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Event:
    at: datetime
    team: str
    user: str
    latency_ms: int | None


class World:
    """`settings` have the time zone, the length of chunks and the place of archives."""

    def __init__(self, settings: Settings, postgres: psycopg.Connection, client: redis.Redis, seed: int) -> None:
        self.settings, self.postgres, self.client = settings, postgres, client
        self.random = random.Random(seed)
        self.now = datetime.now(UTC)
        self.events: list[_Event] = []
        self.deltas: dict[tuple[str, date, str], int] = defaultdict(int)
        self.trace: list[str] = []
        self._last: Numbers = {}
        postgres.execute("update ops.calendar set time_zone = %s", (settings.usage_timezone,))

    # what happens

    def step(self) -> None:
        """One thing that can happen; then no stored number may be less than before."""
        actions: list[tuple[int, Callable[[], None]]] = [
            (6, self.store_events),
            (4, self.store_deltas),
            (1, self.replay_letter),
            (6, self.roll_up),
            (3, self.backfill),
            (5, self.lifecycle),
            (2, self.restore),
            (1, lambda: age_restores(self.postgres)),
        ]
        [action] = self.random.choices([one for _, one in actions], [weight for weight, _ in actions])
        action()
        self.check_nothing_became_less()
        if self.is_up_to_date():
            self.check_equal()

    def store_events(self) -> None:
        made = []
        day = self._some_day()
        for _ in range(self.random.randint(1, 3)):
            # Often beside a midnight, in one of the time zones.
            at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(
                hours=self.random.choice((0, 1, 5, 12, 18, 21, 22, 23)), minutes=self.random.choice((5, 35))
            )
            latency = self.random.choice((None, 5, 7, 90, 350))
            event = _Event(at, self.random.choice(_GROUPS), f"user-{self.random.randint(1, 4)}", latency)
            made.append(event)
        self._say(f"events {[(f'{one.at:%d %H:%M}', one.team) for one in made]}")
        store_events(
            self.postgres,
            self.settings,
            self.now,
            *(event_at(one.at, team=one.team, user_id=one.user, latency_ms=one.latency_ms) for one in made),
        )
        self.events += made

    def store_deltas(self) -> None:
        day, count = self._some_day(), self.random.randint(1, 9)
        key = f"k{self.random.randint(1, 3)}"
        used_ms = int(self._noon(day).timestamp() * 1000)
        self._say(f"deltas {day} {key} {count}")
        self.client.hset(f"apikey:{key}:metrics", mapping={"total_requests": count, "last_used_at": used_ms})
        self.client.hset(f"provider:{key}:s3:metrics", mapping={"upload_count": count, "last_used_at": used_ms})
        token = f'{{"usageCount": {count}, "instanceId": "i1", "lastUsedAt": "{self._noon(day).isoformat()}"}}'
        self.client.set(f"token_usage:{key}:i1", token, ex=600_000)
        report = drain_once(self.settings)
        assert report.dead_letters == 0, self.postgres.execute(
            "select source_key, reason from ops.dead_letters"
        ).fetchall()
        for family, name in (("api_key", key), ("provider", f"{key}:s3"), ("token", key)):
            self.deltas[family, day, name] += count

    def replay_letter(self) -> None:
        """A value that a later version of the parser accepts."""
        day, count = self._some_day(), self.random.randint(1, 9)
        self._say(f"replay {day} {count}")
        used_ms = str(int(self._noon(day).timestamp() * 1000))
        self.client.hset("apikey:broken:metrics", mapping={"total_requests": "x", "last_used_at": used_ms})
        assert drain_once(self.settings).dead_letters == 1
        self.postgres.execute(
            "update ops.dead_letters set raw = %s where replayed_at is null",
            (hiredis.pack_command(("total_requests", str(count), "last_used_at", used_ms)),),
        )
        store = UsageStore(self.postgres, usage_timezone=self.settings.usage_timezone, drained_by="test")
        replayed = list(replay(self.postgres, store, times=self.settings.possible_times))
        assert [one.is_counted for one in replayed] == [True], replayed
        self.deltas["api_key", day, "broken"] += count

    def roll_up(self) -> None:
        """As the sensors of late days and late windows do it, and the schedules of running weeks and months."""
        self._say("roll up")
        today = current_day(self.settings.timezone)
        roll_up_stale_days(self.postgres, today=today)
        while windows := [one for one in self._stale_windows() if not one.is_archived]:
            for one in windows:
                replace_window(self.postgres, one.window, settings=self.settings, now=self.now)
        longer = "select distinct grain, window_start from ops.touched_windows where grain in ('week', 'month')"
        for grain, start in self.postgres.execute(longer).fetchall():
            window = window_at(grain, start, self.settings.timezone)
            replace_window(self.postgres, window, settings=self.settings, now=self.now)

    def backfill(self) -> None:
        """Makes a window and a day again, whatever state they are in. Only rows that are in a file may stop that."""
        day = self._some_day()
        window = self._some_window(day)
        self._say(f"backfill {window}")
        with suppress(SourceGoneError):
            replace_window(self.postgres, window, settings=self.settings, now=self.now)
        family = self.random.choice(tuple(BY_FAMILY))
        make_again(self.postgres, family, day, today=current_day(self.settings.timezone))

    def lifecycle(
        self, retention_days: int | None = None, compression_after_days: int | None = None
    ) -> LifecycleReport:
        retention_days = retention_days or self.random.choice((8, 10, 11, 12, 13, 180, 180))
        compression_after_days = compression_after_days or self.random.choice((8, 10, 12, 30, 30))
        self._say(f"lifecycle {retention_days} {compression_after_days}")
        changed = {"retention_days": retention_days, "compression_after_days": compression_after_days}
        report = run_lifecycle(self.settings.model_copy(update=changed), now=self.now)
        assert report.problems == []
        return report

    def restore(self) -> None:
        found = archives(self.postgres, only_in_files=True)
        if self.settings.archive_url:
            some = self.random.sample(found, self.random.randint(0, len(found)))
            self._say(f"restore {[archive.address for archive in some]}")
            read_back(self.postgres, self.settings, some)

    # what must hold

    def is_up_to_date(self) -> bool:
        days = "select from ops.touched_days where rolled_version < version"
        windows = "select from ops.touched_windows"
        return all(self.postgres.execute(query).fetchone() is None for query in (days, windows))

    def check_nothing_became_less(self) -> None:
        found = self.stored()
        less = {key: (before, found.get(key)) for key, before in self._last.items() if _is_less(found.get(key), before)}
        assert less == {}, self.said()
        self._last = found

    def check_equal(self) -> None:
        """What is stored is what the books say. Only percentiles and users of an hour may be those of before a late event."""
        expected, found = self.expected(), self.stored()
        assert found.keys() == expected.keys(), self.said()
        wrong = {key: (found[key], each) for key, each in expected.items() if found[key] != each}
        assert wrong == {}, self.said()

    def stored(self) -> Numbers:
        """Tables, windows and groups with their numbers."""
        numbers: Numbers = {}
        for grain, table, column in (
            ("hour", "usage_hourly", "hour_start"),
            ("day", "usage_daily", "usage_date"),
            ("week", "usage_weekly", "week_start"),
            ("month", "usage_monthly", "month_start"),
        ):
            exact = "" if grain == "hour" else ", distinct_users, latency_p50_ms, latency_p95_ms"
            query = f"select {column}, team, requests, total_tokens, cost_usd{exact} from analytics.{table}"
            for start, team, *values in self.postgres.execute(query):
                name = start.astimezone(UTC) if grain == "hour" else start
                numbers[table, name, team] = tuple(_rounded(values))
        users = "select usage_date, team, user_id, requests, total_tokens, cost_usd from analytics.usage_user_daily"
        for day, team, user, *values in self.postgres.execute(users):
            numbers["usage_user_daily", day, team, user] = tuple(values)
        return numbers | {name: counts[:1] for name, counts in stored_days(self.postgres).items()}

    def expected(self) -> Numbers:
        numbers: Numbers = {key: (count,) for key, count in self.deltas.items()}
        groups: dict[tuple[Any, ...], list[_Event]] = defaultdict(list)
        for event in self.events:
            local = event.at.astimezone(self.settings.timezone)
            hour = local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
            day = local.date()
            groups["usage_hourly", hour, event.team].append(event)
            groups["usage_daily", day, event.team].append(event)
            groups["usage_weekly", week_of(day), event.team].append(event)
            groups["usage_monthly", month_of(day), event.team].append(event)
            groups["usage_user_daily", day, event.team, event.user].append(event)
        for key, events in groups.items():
            counts: tuple[Any, ...] = (len(events), len(events) * _TOKENS, len(events) * _COST)
            if key[0] not in ("usage_hourly", "usage_user_daily"):
                latencies = sorted(one.latency_ms for one in events if one.latency_ms is not None)
                users = len({one.user for one in events})
                counts += tuple(_rounded((users, _percentile(latencies, 0.5), _percentile(latencies, 0.95))))
            numbers[key] = counts
        return numbers

    def said(self) -> str:
        return "\n".join(self.trace)

    # inside

    def _say(self, what: str) -> None:
        self.trace.append(what)

    def _stale_windows(self) -> list[Any]:
        return stale_windows(self.postgres, time_zone=self.settings.timezone, now=self.now)

    def _some_day(self) -> date:
        return self.now.date() - timedelta(days=self.random.randint(YOUNGEST, OLDEST))

    def _some_window(self, day: date) -> Window:
        zone = self.settings.timezone
        grain = self.random.choice(GRAINS)
        if grain == "hour":
            return hour_window(day_window(day, zone).first + timedelta(hours=self.random.randint(0, 23)), zone)
        return window_on(grain, {"week": week_of, "month": month_of}.get(grain, lambda same: same)(day), zone)

    def _noon(self, day: date) -> datetime:
        return datetime(day.year, day.month, day.day, 12, tzinfo=self.settings.timezone)


def _is_less(found: tuple[Any, ...] | None, before: tuple[Any, ...]) -> bool:
    """Whether sums became less. Percentiles, at the end, may."""
    return found is None or any(one < other for one, other in zip(found[:4], before[:4], strict=True))


def _percentile(ordered: list[int], share: float) -> float | None:
    """As the SQL standard defines percentile_cont."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = ordered[int(place)]
    high = ordered[min(int(place) + 1, len(ordered) - 1)]
    return low + (high - low) * (place - int(place))


def _rounded(values: Iterable[Any]) -> list[Any]:
    return [round(value, 6) if isinstance(value, float) else value for value in values]

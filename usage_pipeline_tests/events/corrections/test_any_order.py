"""After any sequence of events, corrections, decisions, late rows, recosts and backfills, every table is what a list says."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import sql

from usage_pipeline.checks.windows import conflict_faults, day_count_faults
from usage_pipeline.events.corrections.conflicts import Decision, decide, list_conflicts
from usage_pipeline.events.corrections.events import Wanted, correct
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.calendar import Grain, window_at
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.recost import recost
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.events import NOW, as_items, event, is_error, list_cost

# Two months, and two weeks, meet at some of these days.
FIRST = (NOW.replace(day=1, hour=0, minute=0, second=0) - timedelta(days=1)).date()
DAYS = [FIRST, FIRST + timedelta(days=1), FIRST + timedelta(days=8)]
MOMENTS = [datetime(day.year, day.month, day.day, hour, 15, tzinfo=UTC) for day in DAYS for hour in (0, 23)]
IDS = [str(UUID(int=number)) for number in range(1, 6)]
MODELS = [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5")]
DOUBLE = "twice the package"
GRAINS: dict[Grain, str] = {"hour": "hourly", "day": "daily", "week": "weekly", "month": "monthly"}
LONGER: tuple[Grain, ...] = ("week", "month")

Members = dict[str, Any]
Row = tuple[int, int, int, int, int, Decimal | None, int]


@st.composite
def events(draw: st.DrawFn) -> Members:
    provider, model = draw(st.sampled_from(MODELS))
    return event(
        event_id=draw(st.sampled_from(IDS)),
        event_time=draw(st.sampled_from(MOMENTS)).isoformat(),
        provider=provider,
        model=model,
        input_tokens=draw(st.sampled_from([1, 1_000_000])),
        output_tokens=draw(st.sampled_from([0, 7])),
        status_code=draw(st.sampled_from([200, 429])),
        user_id=draw(st.sampled_from(["ana", "omar"])),
    )


STEPS = st.one_of(
    st.tuples(st.just("send"), st.lists(events(), min_size=1, max_size=5)),
    st.tuples(st.just("send"), st.lists(events(), min_size=1, max_size=5)),
    st.tuples(st.just("void"), st.sampled_from(IDS)),
    st.tuples(st.just("replace"), events()),
    st.tuples(st.just("replace"), events()),
    st.tuples(st.sampled_from(["accepted", "dismissed"]), st.integers(0, 3)),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("backfill"), st.tuples(st.sampled_from(list(GRAINS)), st.sampled_from(MOMENTS))),
)


def content(members: Members) -> str:
    """What makes a version: all but the time."""
    return str({name: value for name, value in members.items() if name != "event_time"})


@dataclass
class Oracle:
    """What counts, by id; None was taken out. All versions that ever counted. What was kept out and what became of it."""

    counted: dict[str, Members | None] = field(default_factory=dict)
    versions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    conflicts: dict[str, list[Any]] = field(default_factory=dict)
    factors: dict[date, int] = field(default_factory=dict)
    corrections: int = 0

    def send(self, sent: list[Members]) -> tuple[int, int, int]:
        known = set(self.counted)
        duplicates = conflicts = 0
        for one in sent:
            event_id, version = one["event_id"], content(one)
            if event_id not in self.counted:
                self.counted[event_id] = one
                self.versions[event_id].add(version)
            elif version in self.versions[event_id]:
                duplicates += 1
            else:
                conflicts += 1
                self.conflicts.setdefault(version, [one, "open"])
        return len(set(self.counted) - known), duplicates, conflicts

    def void(self, event_id: str) -> str:
        if event_id not in self.counted:
            return "refused"
        if self.counted[event_id] is None:
            return "already"
        self.counted[event_id] = None
        self.corrections += 1
        return "corrected"

    def replace(self, new: Members) -> str:
        event_id = new["event_id"]
        if event_id not in self.counted:
            return "refused"
        if self.counted[event_id] == new:
            return "already"
        self.counted[event_id] = new
        self.versions[event_id].add(content(new))
        if self.conflicts.get(content(new), [None, None])[1] == "open":
            self.conflicts[content(new)][1] = "accepted"
        self.corrections += 1
        return "corrected"

    def open(self) -> list[Members]:
        return [one for one, outcome in self.conflicts.values() if outcome == "open"]

    def rows(self, grain: Grain) -> dict[tuple[Any, ...], Row]:
        """By window, provider and model: requests, errors, input, output and total tokens, cost, users."""
        found: dict[tuple[Any, ...], list[Members]] = defaultdict(list)
        for one in self.counted.values():
            if one is not None:
                found[_window(one, grain), one["provider"], one["model"]].append(one)
        return {key: self._row(of_key) for key, of_key in found.items()}

    def _row(self, of_key: list[Members]) -> Row:
        costs = [
            cost * self.factors.get(datetime.fromisoformat(one["event_time"]).date(), 1)
            for one in of_key
            if (cost := list_cost(one)) is not None
        ]
        entered, left = (sum(one[name] for one in of_key) for name in ("input_tokens", "output_tokens"))
        errors, users = sum(map(is_error, of_key)), len({one["user_id"] for one in of_key})
        return len(of_key), errors, entered, left, entered + left, sum(costs, Decimal(0)) if costs else None, users


def _window(one: Members, grain: Grain) -> date | datetime:
    at = datetime.fromisoformat(one["event_time"])
    if grain == "hour":
        return at.replace(minute=0)
    day = at.date()
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[grain]


class World:
    """The same steps in the database."""

    def __init__(self, postgres: psycopg.Connection, settings: Settings) -> None:
        self.postgres = postgres
        self.settings = settings

    def empty(self) -> None:
        tables = self.postgres.execute(
            "select oid::regclass::text from pg_class where not relispartition and relkind in ('r', 'p') and "
            "(relnamespace = 'analytics'::regnamespace and relname !~ 'price|lookup' or oid = any(%s::regclass[]))",
            (["ops.corrections", "ops.event_conflicts", "ops.touched_windows", "ops.rolled_windows", "ops.late_data"],),
        ).fetchall()
        self.postgres.execute(f"truncate {', '.join(name for (name,) in tables)} cascade")
        self.postgres.execute("delete from analytics.day_prices")

    def price_twice(self) -> None:
        """A version of the same models at twice the price. All models must be looked up."""
        self.postgres.execute(
            "insert into analytics.price_versions (price_version, source, checksum) values (%s, 'csv', 'x')", (DOUBLE,)
        )
        for table in ("model_prices", "model_lookups"):
            columns = self.postgres.execute(
                "select column_name from information_schema.columns where table_schema = 'analytics' and table_name = %s "
                "and column_name not in ('price_version', 'model_price_id')",
                (table,),
            ).fetchall()
            twice = {"input_usd", "output_usd", "request_usd"}
            self.postgres.execute(
                sql.SQL(
                    "insert into analytics.{table} (price_version, {names}) select %s, {values} from analytics.{table}"
                ).format(
                    table=sql.Identifier(table),
                    names=sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns),
                    values=sql.SQL(", ").join(
                        sql.SQL("2 * {}" if name in twice else "{}").format(sql.Identifier(name)) for (name,) in columns
                    ),
                ),
                (DOUBLE,),
            )

    def send(self, sent: list[Members]) -> tuple[int, int, int]:
        report = ingest(self.postgres, EVENTS, as_items(*sent), source="test", settings=self.settings, now=NOW)
        return report.inserted, report.duplicates, report.conflicts

    def correct(self, wanted: Wanted) -> str:
        [found] = correct(self.postgres, [wanted], corrected_by="me", settings=self.settings, now=NOW)
        return found.outcome

    def decide(self, place: int, decision: Decision) -> None:
        number = list_conflicts(self.postgres)[place].event_conflict_id
        [made] = decide(self.postgres, [number], decision, reason="test", decided_by="me", settings=self.settings)
        assert made.outcome == decision

    def settle(self) -> None:
        while stale := stale_windows(self.postgres, time_zone=self.settings.timezone, now=NOW):
            for one in stale:
                replace_window(self.postgres, one.window, settings=self.settings, now=NOW)

    def backfill(self, grain: Grain, at: datetime) -> None:
        start = datetime.combine(_day_of_window(grain, at), at.time().replace(minute=0), UTC)
        replace_window(self.postgres, window_at(grain, start, self.settings.timezone), settings=self.settings, now=NOW)

    def rows(self, grain: Grain) -> dict[tuple[Any, ...], Row]:
        column = {"hour": "hour_start", "day": "usage_date", "week": "week_start", "month": "month_start"}[grain]
        found = self.postgres.execute(
            f"select {column}, provider, model, requests, errors, input_tokens, output_tokens, total_tokens, cost_usd, "
            f"distinct_users from analytics.usage_{GRAINS[grain]}"
        )
        return {row[:3]: row[3:] for row in found}

    def live(self) -> dict[Any, int]:
        query = (
            "select hour_start, provider, model, sum(requests)::int from analytics.usage_hourly_live group by 1, 2, 3"
        )
        return {row[:3]: row[3] for row in self.postgres.execute(query)}


def _day_of_window(grain: Grain, at: datetime) -> date:
    day = at.date()
    return {"week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}.get(grain, day)


def _windows(world: World) -> Iterator[tuple[Grain, dict[tuple[Any, ...], Row]]]:
    return ((grain, world.rows(grain)) for grain in GRAINS)


# To shrink an example takes minutes of the database.
@hypothesis_settings(max_examples=6, derandomize=True, phases=[Phase.generate])
@given(steps=st.lists(STEPS, min_size=4, max_size=14), recosted=st.lists(st.sampled_from(DAYS), max_size=1))
def test_every_table_is_what_the_list_says(
    postgres: psycopg.Connection, settings: Settings, steps: list[tuple[str, Any]], recosted: list[date]
) -> None:
    world, oracle = World(postgres, settings), Oracle()
    world.empty()
    if postgres.execute("select from analytics.price_versions where price_version = %s", (DOUBLE,)).fetchone() is None:
        seeds = [event(provider=provider, model=model, event_time=MOMENTS[0].isoformat()) for provider, model in MODELS]
        world.send(seeds)
        world.settle()
        world.price_twice()
        world.empty()
    for number, (what, value) in enumerate(steps):
        if what == "send":
            assert world.send(value) == oracle.send(value)
        elif what == "void":
            assert world.correct(Wanted("test", UUID(value))) == oracle.void(value)
        elif what == "replace":
            assert world.correct(Wanted("test", event=as_items(value)[0])) == oracle.replace(value)
        elif what == "settle":
            world.settle()
        elif what == "backfill":
            world.backfill(*value)
        elif kept_out := oracle.open():
            place = value % len(kept_out)
            world.decide(place, what)  # type: ignore[arg-type]
            if what == "accepted":
                assert oracle.replace(kept_out[place]) == "corrected"
            else:
                oracle.conflicts[content(kept_out[place])][1] = what
        if number == len(steps) // 2:
            for day in recosted:
                assert [one.problem for one in recost(postgres, [day], DOUBLE, settings=settings)] == [""]
                oracle.factors[day] = 2
    _expect_equal(world, oracle)


def _expect_equal(world: World, oracle: Oracle) -> None:
    assert world.live() == {key: row[0] for key, row in oracle.rows("hour").items()}
    world.settle()
    # The schedule makes those that still run.
    for grain, at in {(grain, _day_of_window(grain, at)): (grain, at) for grain in LONGER for at in MOMENTS}.values():
        world.backfill(grain, at)
    for grain, rows in _windows(world):
        assert rows == oracle.rows(grain), grain
    [(notes,)] = world.postgres.execute("select count(*) from ops.corrections where event_id is not null").fetchall()
    assert notes == oracle.corrections
    assert len(list_conflicts(world.postgres)) == len(oracle.open())
    assert (conflict_faults(world.postgres, NOW - timedelta(days=90)) == []) == (oracle.open() == [])
    assert day_count_faults(world.postgres, min(DAYS), max(DAYS), world.settings.timezone) == []

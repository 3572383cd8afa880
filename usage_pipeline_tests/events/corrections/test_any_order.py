"""After any sequence of events, corrections, decisions, late rows, recosts and backfills, every table is what a list says."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pandas as pd
import psycopg
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import sql

from usage_pipeline.checks.windows import conflict_faults, day_count_faults
from usage_pipeline.events.corrections.conflicts import Decision, decide, list_conflicts
from usage_pipeline.events.corrections.events import Wanted, correct, event_id_of
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.rollups.calendar import Grain, window_at
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.recost import recost
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.end_to_end.rigs.trace_prices import usual_cost
from usage_pipeline_tests.end_to_end.rigs.usage_frames import TABLES, frame_of
from usage_pipeline_tests.end_to_end.rigs.usage_tables import assert_tables_equal
from usage_pipeline_tests.rigs.events import NOW, as_items, event, list_cost

# Their costs follow when a day has its price version, which it gets with its first roll-up.
LIVE = [
    replace(table, has_costs=False)
    for table in TABLES
    if table.name in ("analytics.usage_hourly_live", "reporting.usage_by_hour")
]
# Two months, and two weeks, meet at some of these days; all of them are over.
FIRST = ((NOW - timedelta(days=9)).replace(day=1, hour=0, minute=0, second=0) - timedelta(days=1)).date()
DAYS = [FIRST, FIRST + timedelta(days=1), FIRST + timedelta(days=8)]
MOMENTS = [datetime(day.year, day.month, day.day, hour, 15, tzinfo=UTC) for day in DAYS for hour in (0, 23)]
# UUIDs, and two ids of a source.
IDS = [*(str(UUID(int=number)) for number in range(1, 4)), "chatcmpl-1", "chatcmpl-2"]
SOURCE = "gateway"
# The last one has no price.
MODELS = [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-flash"), ("house", "m")]
TIERS = [None, None, "priority", "batch"]
DOUBLE = "twice the package"
TAGS = ["project"]
GRAINS: tuple[Grain, ...] = ("hour", "day", "week", "month")
LONGER: tuple[Grain, ...] = ("week", "month")
INPUT, OUTPUT = 1_000_000, 700
USAGES: list[dict[str, int]] = [
    {},
    {"cache_read_tokens": 900_000},
    {"cache_read_tokens": 5, "cache_write_tokens": 70, "cache_write_1h_tokens": 30},
    {"input_audio_tokens": 1_000, "cache_read_tokens": 500, "cache_audio_read_tokens": 400},
    {"output_reasoning_tokens": 650},
    {"output_audio_tokens": 9, "input_image_tokens": 8},
    {"web_searches": 2},
]

Members = dict[str, Any]


def event_of(event_id: str, usage: dict[str, int], **changes: Any) -> Members:
    """With a source if the id needs one, and without members that have nothing."""
    source = None if event_id in IDS[:3] else SOURCE
    members = event(event_id=event_id, **changes, source=source, usage=usage)
    return {name: value for name, value in members.items() if value not in (None, {})}


@st.composite
def events(draw: st.DrawFn) -> Members:
    provider, model = draw(st.sampled_from(MODELS))
    usage = draw(st.sampled_from(USAGES))
    is_large = any(name.startswith("output") for name in usage) or draw(st.booleans())
    return event_of(
        draw(st.sampled_from(IDS)),
        usage,
        event_time=draw(st.sampled_from(MOMENTS)).isoformat(),
        provider=provider,
        model=model,
        input_tokens=INPUT if any("put" not in name for name in usage) or draw(st.booleans()) else 1_000,
        output_tokens=OUTPUT if is_large else 0,
        status_code=draw(st.sampled_from([200, 200, 429])),
        latency_ms=draw(st.sampled_from([3, 350, 351])),
        user_id=draw(st.sampled_from(["ana", "omar"])),
        service_tier=draw(st.sampled_from(TIERS)),
        cost_usd=draw(st.sampled_from([None, None, "0.25", "0"])),
        tags=draw(st.sampled_from([{}, {"project": "apollo"}, {"project": "gemini", "color": "red"}])),
    )


STEPS = st.one_of(
    st.tuples(st.just("send"), st.lists(events(), min_size=1, max_size=5)),
    st.tuples(st.just("send"), st.lists(events(), min_size=1, max_size=5)),
    st.tuples(st.just("void"), st.sampled_from(IDS)),
    st.tuples(st.just("replace"), events()),
    st.tuples(st.just("replace"), events()),
    st.tuples(st.sampled_from(["accepted", "dismissed"]), st.integers(0, 3)),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("backfill"), st.tuples(st.sampled_from(GRAINS), st.sampled_from(MOMENTS))),
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

    def cost(self, one: Mapping[str, Any]) -> Decimal | None:
        cost = list_cost(one, usual_cost)
        return cost if cost is None else cost * self.factors.get(datetime.fromisoformat(one["event_time"]).date(), 1)

    def frame(self) -> pd.DataFrame:
        counted = [one for one in self.counted.values() if one is not None]
        return frame_of(counted, ZoneInfo("UTC"), self.cost)


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
            self.postgres.execute(
                sql.SQL(
                    "insert into analytics.{table} (price_version, {names}) select %s, {values} from analytics.{table}"
                ).format(
                    table=sql.Identifier(table),
                    names=sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns),
                    values=sql.SQL(", ").join(
                        sql.SQL(_doubled(name)).format(sql.Identifier(name)) for (name,) in columns
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

    def decide(self, kept_out: Members, decision: Decision) -> None:
        [number] = [
            conflict.event_conflict_id
            for conflict in list_conflicts(self.postgres)
            if content(json.loads(conflict.other_payload)) == content(kept_out)
        ]
        [made] = decide(self.postgres, [number], decision, reason="test", decided_by="me", settings=self.settings)
        assert made.outcome == decision

    def settle(self) -> None:
        while stale := stale_windows(self.postgres, time_zone=self.settings.timezone, now=NOW):
            for one in stale:
                replace_window(self.postgres, one.window, settings=self.settings, now=NOW)

    def backfill(self, grain: Grain, at: datetime) -> None:
        start = datetime.combine(_day_of_window(grain, at), at.time().replace(minute=0), UTC)
        replace_window(self.postgres, window_at(grain, start, self.settings.timezone), settings=self.settings, now=NOW)


def _doubled(column: str) -> str:
    if column == "other_usd":
        return "(select coalesce(jsonb_object_agg(key, 2 * value::numeric), '{{}}') from jsonb_each_text({}))"
    return "2 * {}" if column.endswith("_usd") else "{}"


def _day_of_window(grain: Grain, at: datetime) -> date:
    day = at.date()
    return {"week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}.get(grain, day)


# To shrink an example takes minutes of the database.
@hypothesis_settings(max_examples=10, derandomize=True, phases=[Phase.generate])
@given(steps=st.lists(STEPS, min_size=4, max_size=14), recosted=st.lists(st.sampled_from(DAYS), max_size=1))
def test_every_table_is_what_the_list_says(
    postgres: psycopg.Connection, settings: Settings, steps: list[tuple[str, Any]], recosted: list[date]
) -> None:
    world, oracle = World(postgres, settings.model_copy(update={"rollup_tags": ", ".join(TAGS)})), Oracle()
    world.empty()
    if postgres.execute("select from analytics.price_versions where price_version = %s", (DOUBLE,)).fetchone() is None:
        seeds = [
            event(provider=provider, model=model, event_time=MOMENTS[0].isoformat(), service_tier=tier)
            for provider, model in MODELS
            for tier in set(TIERS)
        ]
        world.send(seeds)
        world.settle()
        world.price_twice()
        world.empty()
    for number, (what, value) in enumerate(steps):
        if what == "send":
            assert world.send(value) == oracle.send(value)
        elif what == "void":
            assert world.correct(
                Wanted("test", event_id_of(value, None if value in IDS[:3] else SOURCE))
            ) == oracle.void(value)
        elif what == "replace":
            assert world.correct(Wanted("test", event=as_items(value)[0])) == oracle.replace(value)
        elif what == "settle":
            world.settle()
        elif what == "backfill":
            world.backfill(*value)
        elif kept_out := oracle.open():
            one = kept_out[value % len(kept_out)]
            world.decide(one, what)  # type: ignore[arg-type]
            if what == "accepted":
                assert oracle.replace(one) == "corrected"
            else:
                oracle.conflicts[content(one)][1] = what
        if number == len(steps) // 2:
            for day in recosted:
                assert [one.problem for one in recost(postgres, [day], DOUBLE, settings=world.settings)] == [""]
                oracle.factors[day] = 2
    _expect_equal(world, oracle)


def _expect_equal(world: World, oracle: Oracle) -> None:
    frame = oracle.frame()
    assert_tables_equal(world.postgres, frame, TAGS, LIVE)
    world.settle()
    for grain, at in {(grain, _day_of_window(grain, at)): (grain, at) for grain in LONGER for at in MOMENTS}.values():
        world.backfill(grain, at)
    assert_tables_equal(world.postgres, frame, TAGS)
    [(notes,)] = world.postgres.execute("select count(*) from ops.corrections where event_id is not null").fetchall()
    assert notes == oracle.corrections
    assert len(list_conflicts(world.postgres)) == len(oracle.open())
    assert (conflict_faults(world.postgres, NOW - timedelta(days=90)) == []) == (oracle.open() == [])
    assert day_count_faults(world.postgres, min(DAYS), max(DAYS), world.settings.timezone) == []

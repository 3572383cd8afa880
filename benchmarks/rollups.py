"""What percentiles add to the roll-up of a day of usage events, and how much faster a roll-up answers than the events.

Everything is measured in turns within one run, like benchmarks.drain.
With --units, events have cached and reasoning tokens, other units, tiers and reported costs.
Run: python -m benchmarks.rollups [--events N] [--units] [--repeats N] [--json]
"""

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta

import psycopg
from psycopg import sql as compose
from rich.table import Table

from benchmarks.harness import (
    add_repeats,
    measure_in_turns,
    medians,
    own_servers,
    paired_ratio,
    parsed,
    show,
    table_of,
)
from usage_pipeline.rollups.calendar import day_window, hour_window, hours_of, week_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.partitions import ensure_chunks
from usage_pipeline.storage.postgres import connect

EVENTS_A_DAY = 170_000
MONDAY = date(2026, 11, 2)
DAYS = 7
_WRITE = """
insert into analytics.usage_events (
    event_id, event_time, user_id, team, service, provider, model, input_tokens, output_tokens, total_tokens, latency_ms,
    status_code{columns}
)
select
    gen_random_uuid(),
    %(start)s::timestamptz + number * interval '1 day' / %(events)s,
    'user-' || (random() * 500)::int,
    'team-' || (random() * 500)::int %% 6,
    'service-' || number %% 3,
    (array['openai', 'anthropic', 'google'])[1 + number %% 3],
    (array[
        'gpt-4o', 'claude-sonnet-4-5', 'gemini-2.5-flash', 'gpt-4o-mini', 'claude-haiku-4-5', 'gemini-2.5-pro', 'gpt-4.1',
        'claude-opus-4-1', 'gemini-2.0-flash'
    ])[1 + number %% 3 + 3 * (random() * 2)::int],
    input_tokens,
    output_tokens,
    input_tokens + output_tokens,
    exp(6.5 + 0.8 * sqrt(-2 * ln(random() + 1e-9)) * cos(2 * pi() * random()))::int,
    case when random() < 0.02 then 500 else 200 end{values}
from (
    select number, (random() * 4000)::int as input_tokens, (random() * 800)::int as output_tokens
    from generate_series(0, %(events)s::integer * %(days)s - 1) as number
) as drawn
"""
_UNITS = {
    "columns": ", cache_read_tokens, cache_write_tokens, output_reasoning_tokens, other_units, service_tier, cost_usd",
    "values": """,
    case when random() < 0.5 then input_tokens / 2 end,
    case when number %% 3 = 1 and number %% 5 = 0 then input_tokens / 4 end,
    case when random() < 0.3 then output_tokens / 2 end,
    case
        when number %% 3 = 1 and number %% 5 = 0 then jsonb_build_object('cache_write_5m_tokens', input_tokens / 4)
        when random() < 0.05 then '{"web_searches": 2}'
    end,
    case when random() < 0.05 then 'batch' end,
    case when random() < 0.05 then 0.0125 end
""",
}
# The sums of the day's roll-up, as they are computed from events, with and without the percentiles.
_SUMS = """
select
    team,
    service,
    provider,
    model,
    count(*),
    count(*) filter (where analytics.is_error(status_code, error_type)),
    sum(input_tokens),
    sum(output_tokens),
    sum(total_tokens),
    count(distinct user_id){percentiles}
from analytics.usage_events
where event_time >= %(first)s
  and event_time < %(until)s
group by team, service, provider, model
"""
_PERCENTILES = ",\n    percentile_cont(array[0.5, 0.95, 0.99]) within group (order by latency_ms)"
_TOP = """
select model, sum(total_tokens) as tokens
from {table}
where {time} >= %(first)s
  and {time} < %(until)s
group by model
order by tokens desc
limit 10
"""
_TOP_FROM_EVENTS = _TOP.format(table="analytics.usage_events", time="event_time")
_TOP_FROM_ROLL_UP = _TOP.format(table="analytics.usage_daily", time="usage_date")


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats, in milliseconds; ratios paired within a repeat."""

    events_a_day: int
    repeats: int
    sums_ms: float
    sums_and_percentiles_ms: float
    percentiles_to_sums: float
    replace_day_ms: float
    replace_day_to_sums: float
    replace_hour_ms: float
    replace_week_ms: float
    top_from_events_ms: float
    top_from_roll_up_ms: float
    top_speed_up: float


class Bench:
    """A week of events, rolled up; and the things to measure, each in times a second."""

    def __init__(self, settings: Settings, events_a_day: int, *, has_units: bool) -> None:
        self._settings = settings
        self._postgres = connect(settings)
        zone = settings.timezone
        self._week = week_window(MONDAY, zone)
        self._days = [day_window(MONDAY + timedelta(days=offset), zone) for offset in range(DAYS)]
        self._hour = hour_window(hours_of(self._days[2])[12], zone)
        ensure_chunks(
            self._postgres,
            "analytics.usage_events",
            [day.first for day in self._days],
            settings.chunk_time_interval_hours,
        )
        self._postgres.execute("select setseed(0.5)")
        write = compose.SQL(_WRITE).format(
            **{part: compose.SQL(text if has_units else "") for part, text in _UNITS.items()}
        )
        self._postgres.execute(write, {"start": self._week.first, "events": events_a_day, "days": DAYS})
        for window in [*self._days, self._hour, self._week]:
            replace_window(self._postgres, window, settings=settings)
        self._postgres.execute("vacuum analyze")
        self._postgres.execute("set work_mem = '64MB'")
        self._postgres.execute("set jit = off")

    def sums(self) -> float:
        return self._query(_SUMS.format(percentiles=""), self._day)

    def sums_and_percentiles(self) -> float:
        return self._query(_SUMS.format(percentiles=_PERCENTILES), self._day)

    def replace_day(self) -> float:
        return self._timed(lambda: replace_window(self._postgres, self._days[2], settings=self._settings))

    def replace_hour(self) -> float:
        return self._timed(lambda: replace_window(self._postgres, self._hour, settings=self._settings))

    def replace_week(self) -> float:
        return self._timed(lambda: replace_window(self._postgres, self._week, settings=self._settings))

    def top_from_events(self) -> float:
        return self._query(_TOP_FROM_EVENTS, self._moments)

    def top_from_roll_up(self) -> float:
        return self._query(_TOP_FROM_ROLL_UP, self._dates)

    def same_answers(self) -> None:
        """The roll-up and the events name the same models with the same tokens. Raises RuntimeError."""
        from_events = _fetched(self._postgres, _TOP_FROM_EVENTS, self._moments)
        from_roll_up = _fetched(self._postgres, _TOP_FROM_ROLL_UP, self._dates)
        if from_events != from_roll_up:
            raise RuntimeError(f"expected the same from events and roll-up, came {from_events} and {from_roll_up}")

    def settle(self) -> None:
        self._postgres.execute("checkpoint")

    def close(self) -> None:
        self._postgres.close()

    @property
    def _day(self) -> dict[str, datetime]:
        return {"first": self._days[2].first, "until": self._days[2].end}

    @property
    def _moments(self) -> dict[str, datetime]:
        return {"first": self._week.first, "until": self._week.end}

    @property
    def _dates(self) -> dict[str, date]:
        return {"first": self._week.day, "until": self._week.next_day}

    def _query(self, query: str, parameters: Mapping[str, date]) -> float:
        return self._timed(lambda: _fetched(self._postgres, query, parameters))

    def _timed(self, call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return 1 / (time.perf_counter() - started)


def _fetched(connection: psycopg.Connection, query: str, parameters: Mapping[str, date]) -> list[tuple[object, ...]]:
    return connection.execute(query, parameters).fetchall()


def measure(bench: Bench, *, events_a_day: int, repeats: int) -> Result:
    """All measurements in turns, `repeats` times after a warm-up that is not counted."""
    rates = measure_in_turns(
        {
            "sums": bench.sums,
            "sums and percentiles": bench.sums_and_percentiles,
            "replace day": bench.replace_day,
            "replace hour": bench.replace_hour,
            "replace week": bench.replace_week,
            "top from events": bench.top_from_events,
            "top from roll-up": bench.top_from_roll_up,
        },
        repeats=repeats,
        settle=bench.settle,
    )

    ms = {name: 1_000 / a_second for name, a_second in medians(rates).items()}

    return Result(
        events_a_day=events_a_day,
        repeats=repeats,
        sums_ms=ms["sums"],
        sums_and_percentiles_ms=ms["sums and percentiles"],
        percentiles_to_sums=paired_ratio(rates, "sums", "sums and percentiles"),
        replace_day_ms=ms["replace day"],
        replace_day_to_sums=paired_ratio(rates, "sums", "replace day"),
        replace_hour_ms=ms["replace hour"],
        replace_week_ms=ms["replace week"],
        top_from_events_ms=ms["top from events"],
        top_from_roll_up_ms=ms["top from roll-up"],
        top_speed_up=paired_ratio(rates, "top from roll-up", "top from events"),
    )


def table(result: Result) -> Table:
    """What was measured, as a person reads it."""
    title = f"{result.events_a_day:,} usage events a day, {DAYS} days; medians of {result.repeats}"
    shown = table_of(title, "measured", "ms", "ratio")
    shown.add_row("sums of a day from events", f"{result.sums_ms:,.0f}", "")
    shown.add_row(
        "the same with percentiles", f"{result.sums_and_percentiles_ms:,.0f}", f"{result.percentiles_to_sums:.2f} times"
    )
    shown.add_row(
        "replace_window of the day", f"{result.replace_day_ms:,.0f}", f"{result.replace_day_to_sums:.2f} times"
    )
    shown.add_row("replace_window of an hour", f"{result.replace_hour_ms:,.0f}", "")
    shown.add_row("replace_window of the week", f"{result.replace_week_ms:,.0f}", "")
    shown.add_row("top 10 models of the week from events", f"{result.top_from_events_ms:,.1f}", "")
    shown.add_row("from the roll-up", f"{result.top_from_roll_up_ms:,.1f}", f"{result.top_speed_up:.0f} times faster")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS_A_DAY, help="usage events a day")
    parser.add_argument("--units", action="store_true", help="events with all kinds of units, tiers and reported costs")
    add_repeats(parser)
    chosen = parsed(parser)
    if min(chosen.events, chosen.repeats) < 1:
        parser.error("--events and --repeats must be at least 1")
    with own_servers() as settings, closing(Bench(settings, chosen.events, has_units=chosen.units)) as bench:
        bench.same_answers()
        result = measure(bench, events_a_day=chosen.events, repeats=chosen.repeats)
    show(asdict(result), [table(result)], as_json=chosen.json)


if __name__ == "__main__":
    main()

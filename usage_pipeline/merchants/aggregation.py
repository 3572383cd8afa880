"""Aggregation of merchant usage (contracts §1.4): stores absolute counters from Redis in `usage.merchant_usage`, day by day.

It is safe to repeat, and to run twice at once. status.py shows a day, regressions.py has what a person decides about
counters that fell.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime

import psycopg
from psycopg.sql import Composed

from usage_pipeline import values
from usage_pipeline.drain.batch import DeadLetter, new_batch_id
from usage_pipeline.drain.sources.cluster import server_identity
from usage_pipeline.merchants.counters import (
    CounterKey,
    FoundKey,
    Reader,
    Reading,
    RefusedKey,
    find_keys,
    open_servers,
    parse_counter_key,
    read_counters,
    split_key,
)
from usage_pipeline.merchants.report import AggregationReport, DayReport, ErrorList
from usage_pipeline.odometers.look import look_at
from usage_pipeline.process import process_name
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import composed, load

__all__ = ["AggregationReport", "CounterKey", "DayReport", "aggregate", "parse_counter_key"]


@dataclass(frozen=True, slots=True)
class _Mismatch:
    """A counter that differs from its stored value, or has an open regression. `stored` = `offset` + an earlier counter."""

    key: CounterKey
    counter: int
    stored: int
    offset: int
    has_open_regression: bool

    @property
    def is_lower(self) -> bool:
        return self.counter < self.stored - self.offset

    @property
    def is_higher(self) -> bool:
        return self.counter > self.stored - self.offset

    @property
    def is_too_large(self) -> bool:
        return self.is_higher and self.counter > values.MAX_COUNT - self.offset


@dataclass(slots=True)
class _Tally:
    """The sums of one day while its chunks are stored."""

    counters: int = 0
    inserted: int = 0
    raised: int = 0
    regressions: int = 0
    dead_letters: int = 0
    errors: ErrorList = field(default_factory=ErrorList)

    @property
    def changed(self) -> int:
        return self.inserted + self.raised

    def report(self, day: date, rows_stored_before: int) -> DayReport:
        unchanged = self.counters - self.inserted - self.raised - self.regressions
        return DayReport(
            day,
            self.counters + self.dead_letters,
            self.inserted,
            self.raised,
            unchanged,
            self.regressions,
            self.dead_letters,
            rows_stored_before,
            self.errors.listed(),
        )


@dataclass(frozen=True, slots=True)
class _Days:
    """The days whose counters are read: those that were asked for, and those before the last of them from `late_from` on."""

    asked: tuple[date, ...]
    late_from: date | None

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and (day in self.asked or self.is_late(day))

    def is_late(self, day: date) -> bool:
        return self.late_from is not None and self.late_from <= day < self.asked[-1] and day not in self.asked


def aggregate(
    settings: Settings,
    days: Collection[date],
    *,
    merchant_id: str | None = None,
    late_from: date | None = None,
) -> AggregationReport:
    """Stores the current counters of these days, for all merchants or one, with one scan of Redis for all days.

    A counter may grow days after its day: by work that ends late, or a writer that was offline. The scan meets it anyway. So
    with `late_from`, the counters of that day and of later ones up to the last of `days` are stored, too, and the report has
    those days on which that changed something. The cost is to read them, about as much per key as those of `days`.
    A lower counter never lowers a stored value: it becomes a regression. A malformed key or value becomes one dead letter.
    PostgreSQL is asked before Redis. Each chunk of keys is a transaction, and the ledger rows of the days come last.
    Raises PostgresUnavailable or RedisUnavailable (run again), ValueError without days, Malformed for an impossible id.
    """
    wanted = sorted(set(days))
    if not wanted:
        raise ValueError("days: expected at least one, came none")
    if merchant_id is not None:
        values.identifier_text("merchant_id", merchant_id)
    started = time.monotonic()
    tallies: dict[date | None, _Tally] = defaultdict(_Tally)
    looked_at = _Days(tuple(wanted), late_from)
    with open_servers(settings) as (postgres, redis):
        stored_before = _rows_stored(postgres, wanted, merchant_id)
        redis_server = server_identity(redis)
        at_ms = redis.now_ms()
        has_open_letters = _has_open_letters(postgres)
        run = _Run(postgres, redis, new_batch_id(at_ms), values.from_ms(at_ms), has_open_letters, tallies)
        postgres.execute(load("merchants/stage_merchant"))
        postgres.execute(load("merchants/stage_merchant_dead_letter"))
        for chunk in find_keys(redis, looked_at, merchant_id):
            _store_chunk(run, chunk)
        reports = tuple(tallies[day].report(day, stored_before.get(day, 0)) for day in wanted)
        late = sorted(day for day, tally in tallies.items() if day and looked_at.is_late(day) and tally.changed)
        stored_now = _rows_stored(postgres, late, merchant_id)
        late_reports = tuple(tallies[day].report(day, stored_now[day] - tallies[day].inserted) for day in late)
        errors = [error for day in tallies if day and looked_at.is_late(day) for error in tallies[day].errors.listed()]
        # A single merchant's batch is named longer, so that it is not taken for one of the whole day.
        _insert_ledger_rows(run, (*late_reports, *reports), redis_server, "" if merchant_id is None else "/merchant")
    dateless = tallies[None]
    return AggregationReport(
        reports,
        merchant_id,
        dateless.dead_letters,
        (*dateless.errors.listed(), *errors),
        time.monotonic() - started,
        late_reports,
    )


def stage_counters(postgres: psycopg.Connection, reading: Reading) -> None:
    """Puts counters into `staged_merchant`, within the caller's transaction."""
    with postgres.cursor() as cursor, cursor.copy("copy staged_merchant from stdin") as copy:
        for key, counter in reading.counters.items():
            copy.write_row((key.merchant_id, key.day, key.metric_type, counter))


def beside_stored(query: str) -> Composed:
    """A query of `sql/` that holds the staged counters beside what is stored of them."""
    return composed(query, stored_counter=composed("merchants/look_up_stored_counter"))


@dataclass(frozen=True, slots=True)
class _Run:
    """The values that all chunks of one aggregation share."""

    postgres: psycopg.Connection
    redis: Reader
    batch_id: str
    at: datetime
    has_open_letters: bool
    tallies: Mapping[date | None, _Tally]


def _store_chunk(run: _Run, chunk: Sequence[FoundKey]) -> None:
    """Stores a chunk in one transaction, and then adds it to the sums of the days."""
    with run.postgres.transaction():
        # Before Redis is read: a reset accepted between reading and storing would count what was read before the reset
        # once more. Aggregations do not hinder each other; regressions.py takes the lock that they wait for.
        run.postgres.execute("lock table ops.counter_regressions in row exclusive mode")
        reading = read_counters(run.redis, chunk)
        # After the counters, so that whatever Redis came back with before they were read shows.
        look_at(run.postgres, run.redis, {key.day for key in reading.counters}, ["merchant"])
        stage_counters(run.postgres, reading)
        changed = run.postgres.execute(load("merchants/upsert_merchant_usage")).fetchall()
        mismatches = [
            _Mismatch(CounterKey(merchant_id, day, metric_type), *rest)
            for merchant_id, day, metric_type, *rest in run.postgres.execute(
                beside_stored("merchants/select_merchant_mismatches")
            )
        ]
        too_large = [one for one in mismatches if one.is_too_large]
        confirmed = [
            one
            for one in _confirm(run.redis, [one for one in mismatches if not one.is_higher])
            if one.is_lower or one.has_open_regression
        ]
        # They are higher, and were not stored: see the query.
        back = _confirm(run.redis, [one for one in mismatches if one.is_higher and not one.is_too_large])
        _note_regressions(run.postgres, [*confirmed, *(one for one in back if one.is_higher)])
        refused = reading.refused + [_refused_sum(one) for one in too_large]
        _settle_dead_letters(run, refused)
    for day, keys in Counter(key.day for key in reading.counters).items():
        run.tallies[day].counters += keys
    for day, inserted, raised in changed:
        run.tallies[day].inserted += inserted
        run.tallies[day].raised += raised
    for one in too_large:
        run.tallies[one.key.day].counters -= 1
    for one in (*confirmed, *back):
        if one.is_lower or one in back:
            run.tallies[one.key.day].regressions += 1
            run.tallies[one.key.day].errors.add(_regression_error(one))
    for key in refused:
        run.tallies[key.day].dead_letters += 1
        run.tallies[key.day].errors.add(f"{values.shown(key.letter.source_key)}: {key.letter.reason}")


def _confirm(connection: Reader, mismatches: Sequence[_Mismatch]) -> list[_Mismatch]:
    """Reads the counters again: the stored values may come from an aggregation that read later than this one.

    A counter that is gone by now, or is not a counter any more, is left to the next aggregation.
    """
    found = [known for one in mismatches if (known := split_key(one.key.redis_key)) is not None]
    fresh = read_counters(connection, found).counters
    return [replace(one, counter=fresh[one.key]) for one in mismatches if one.key in fresh]


def _note_regressions(postgres: psycopg.Connection, confirmed: Sequence[_Mismatch]) -> None:
    """Opens a regression for each. In regressions that are open it notes the current counter."""
    noted = sorted(confirmed, key=lambda one: one.key)
    if noted:
        arguments = {
            "merchant_ids": [one.key.merchant_id for one in noted],
            "dates": [one.key.day for one in noted],
            "metric_types": [one.key.metric_type for one in noted],
            "stored_values": [one.stored for one in noted],
            "counter_values": [min(one.offset + one.counter, values.MAX_COUNT) for one in noted],
        }
        postgres.execute(load("merchants/upsert_merchant_regressions"), arguments)


def _regression_error(one: _Mismatch) -> str:
    reads = one.offset + one.counter
    if one.is_higher:
        return (
            f"{values.shown(one.key.redis_key)}: expected usage since it read {one.stored - one.offset}, came {one.counter}: "
            "Redis lost this counter before, and has probably brought it back, so it would count again. The stored value "
            f"{one.stored} stays until `usage-pipeline counters accept-restore` (it is back) or `accept-correction` (it grew)"
        )
    return (
        f"{values.shown(one.key.redis_key)}: expected at least the stored value {one.stored}, came {reads}. The stored "
        "value stays until `usage-pipeline counters accept-reset` (Redis lost the counter), `accept-restore` (Redis brought "
        "back an earlier value) or `accept-correction` (somebody lowered it)"
    )


def _refused_sum(one: _Mismatch) -> RefusedKey:
    reason = f"value: expected at most {values.MAX_COUNT} (bigint) after adding reset_offset {one.offset}, came {one.counter}"
    return RefusedKey(one.key.day, DeadLetter(one.key.redis_key, reason, b"%d" % one.counter, "string"))


def _settle_dead_letters(run: _Run, refused: Sequence[RefusedKey]) -> None:
    """Clears dead letters of keys that are good now, then adds new ones. The staged counters must still be there."""
    if not refused and not run.has_open_letters:
        return
    # Two aggregations meet the same letters. Taken last in the transaction, so that who waits here blocks nobody.
    run.postgres.execute("select pg_advisory_xact_lock(hashtext('dead_letters'), hashtext('merchant'))")
    if run.has_open_letters:
        run.postgres.execute(load("merchants/clear_merchant_dead_letters"))
    if refused:
        with run.postgres.cursor() as cursor, cursor.copy("copy staged_merchant_dead_letter from stdin") as copy:
            for key in refused:
                copy.write_row((key.letter.source_key, key.letter.reason, key.letter.raw, key.letter.raw_format))
        run.postgres.execute(load("merchants/refresh_merchant_dead_letters"), {"claimed_at": run.at})
        run.postgres.execute(load("merchants/insert_merchant_dead_letters"), {"claimed_at": run.at})


def _insert_ledger_rows(run: _Run, reports: Sequence[DayReport], redis_server: str, scope: str) -> None:
    with run.postgres.transaction():
        for report in reports:
            arguments = {
                "batch_id": f"{run.batch_id}/{report.day.isoformat()}{scope}",
                "claimed_at": run.at,
                "keys": report.keys_found,
                "stored_rows": report.inserted + report.raised,
                "dead_letters": report.dead_letters,
                "day": report.day,
                "redis_server": redis_server,
                "drained_by": process_name(),
            }
            run.postgres.execute(load("merchants/insert_merchant_sync_batch"), arguments)


def _rows_stored(postgres: psycopg.Connection, days: Sequence[date], merchant_id: str | None) -> dict[date, int]:
    arguments = {"days": list(days), "merchant_id": merchant_id}
    return dict(postgres.execute(load("merchants/count_merchant_usage"), arguments).fetchall())


def _has_open_letters(postgres: psycopg.Connection) -> bool:
    [[has_open]] = postgres.execute(load("merchants/has_open_merchant_dead_letters")).fetchall()
    return bool(has_open)

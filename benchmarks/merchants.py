"""How fast merchant counters get from Redis into PostgreSQL, against the loop that takes one key at a time.

Everything is measured in turns within one run, like benchmarks.drain.
Run: python -m benchmarks.merchants [--counters N] [--repeats N] [--json]
"""

import argparse
import gc
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rich.table import Table
from usage_recorder.keys import merchant_counter

from benchmarks.harness import (
    Timed,
    add_repeats,
    answer_and_peak_mb,
    measure_in_turns,
    medians,
    own_servers,
    paired_ratio,
    parsed,
    show,
    table_of,
)
from usage_pipeline.merchants.aggregation import aggregate, parse_counter_key
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.redis import client

LOOP_SAMPLE_COUNTERS = 2_000
_METRICS = ("api_calls", "messages", "storage_bytes", "orders")
_UPSERT = """
insert into usage.merchant_usage (merchant_id, date, metric_type, metric_value)
values (%s, %s, %s, %s)
on conflict (merchant_id, date, metric_type) do update
set metric_value = excluded.metric_value,
    updated_at = now()
"""
_AGGREGATE_ALONE = """
import sys
from datetime import date
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.settings import load_settings

report = aggregate(load_settings(database_url=sys.argv[1], redis_url=sys.argv[2]), [date.fromisoformat("{day}")])
answer = report.records_aggregated
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats: rates in counters a second, ratios paired within a repeat. Memory in MB, None off Linux."""

    counters: int
    repeats: int
    loop_changed_per_second: float
    loop_unchanged_per_second: float
    changed_per_second: float
    unchanged_per_second: float
    changed_to_loop: float
    unchanged_to_loop: float
    peak_mb: float | None


class Bench:
    """Servers, connections, and the things to measure; after each of them all counters are stored as they read."""

    def __init__(self, settings: Settings, counters: int) -> None:
        self._settings = settings
        self._day = datetime.now(UTC).date()
        self._postgres = connect(settings)
        self._redis = client(settings)
        self._keys = [self._key(number) for number in range(counters)]
        self._change(self._keys)
        aggregate(settings, [self._day])

    def loop(self, *, is_changed: bool) -> float:
        """Counters a second of GET, parsing the key, upsert and commit, one key at a time."""
        sample = self._keys[:LOOP_SAMPLE_COUNTERS]
        if is_changed:
            self._change(sample)
        with Timed(len(sample)) as timed:
            for key in sample:
                value = self._redis.get(key)
                parts = parse_counter_key(key.encode())
                if value is None or parts is None:
                    raise RuntimeError(f"expected the counter {key}, came none")
                self._postgres.execute(_UPSERT, (parts.merchant_id, parts.day, parts.metric_type, int(value)))
        return timed.per_second

    def aggregation(self, *, is_changed: bool) -> float:
        """Counters a second of `aggregate`, with connecting and the scan of Redis."""
        if is_changed:
            self._change(self._keys)
        with Timed(len(self._keys)) as timed:
            [day] = aggregate(self._settings, [self._day]).days
        expected = (len(self._keys), 0) if is_changed else (0, len(self._keys))
        if (day.raised, day.unchanged) != expected:
            raise RuntimeError(f"expected {expected} raised and unchanged, came {(day.raised, day.unchanged)}")
        return timed.per_second

    def peak_mb(self) -> float | None:
        """Peak memory of a process that aggregates all counters, changed, and imports nothing but the counters."""
        self._change(self._keys)
        stored, peak_mb = answer_and_peak_mb(_AGGREGATE_ALONE.format(day=self._day), self._settings)
        if stored != len(self._keys):
            raise RuntimeError(f"expected {len(self._keys)} counters aggregated, came {stored}")
        return peak_mb

    def settle(self) -> None:
        """Between two measurements: nothing of the last one is left to be cleaned up during the next."""
        self._postgres.execute("vacuum analyze usage.merchant_usage")
        self._postgres.execute("checkpoint")
        gc.collect()

    def check(self) -> None:
        """What is stored is what Redis reads, counter by counter. Raises RuntimeError."""
        rows = self._postgres.execute("select merchant_id, date, metric_type, metric_value from usage.merchant_usage")
        stored = {merchant_counter(merchant, day, metric): value for merchant, day, metric, value in rows}
        counters = self._redis.mget(self._keys)
        read = {key: int(counter or 0) for key, counter in zip(self._keys, counters, strict=True)}
        if stored != read:
            raise RuntimeError("what is stored is not what Redis reads")

    def close(self) -> None:
        self._postgres.close()
        self._redis.close()

    def _key(self, number: int) -> str:
        # Spread like ids are, not in the order of the index.
        merchant = number // len(_METRICS)
        return merchant_counter(
            f"{merchant * 2654435761 % 2**32:08x}-{merchant}", self._day, _METRICS[number % len(_METRICS)]
        )

    def _change(self, keys: list[str]) -> None:
        for first in range(0, len(keys), 1_000):
            with self._redis.pipeline(transaction=False) as pipeline:
                for key in keys[first : first + 1_000]:
                    pipeline.incrby(key, 3)
                    pipeline.expire(key, 604_800)
                pipeline.execute()


def measure(settings: Settings, *, counters: int, repeats: int) -> Result:
    """All measurements in turns, `repeats` times after a warm-up that is not counted."""
    with closing(Bench(settings, counters)) as bench:
        subjects: dict[str, Callable[[], float]] = {
            "loop, changed": lambda: bench.loop(is_changed=True),
            "aggregation, changed": lambda: bench.aggregation(is_changed=True),
            "loop, unchanged": lambda: bench.loop(is_changed=False),
            "aggregation, unchanged": lambda: bench.aggregation(is_changed=False),
        }
        rates = measure_in_turns(subjects, repeats=repeats, settle=bench.settle)
        peak_mb = bench.peak_mb()
        bench.check()
    per_second = medians(rates)
    return Result(
        counters=counters,
        repeats=repeats,
        loop_changed_per_second=per_second["loop, changed"],
        loop_unchanged_per_second=per_second["loop, unchanged"],
        changed_per_second=per_second["aggregation, changed"],
        unchanged_per_second=per_second["aggregation, unchanged"],
        changed_to_loop=paired_ratio(rates, "aggregation, changed", "loop, changed"),
        unchanged_to_loop=paired_ratio(rates, "aggregation, unchanged", "loop, unchanged"),
        peak_mb=peak_mb,
    )


def table(result: Result) -> Table:
    title = f"{result.counters:,} merchant counters, medians of {result.repeats}"
    shown = table_of(title, "", "loop, counters/s", "aggregation, counters/s", "to the loop")
    for name, loop, rate, ratio in (
        ("changed", result.loop_changed_per_second, result.changed_per_second, result.changed_to_loop),
        ("unchanged", result.loop_unchanged_per_second, result.unchanged_per_second, result.unchanged_to_loop),
    ):
        shown.add_row(name, f"{loop:,.0f}", f"{rate:,.0f}", f"{ratio:.1f}")
    if result.peak_mb is not None:
        shown.caption = f"peak memory of an aggregation: {result.peak_mb:.0f} MB"
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counters", type=int, nargs="+", default=[10_000, 100_000], help="one run for each number")
    add_repeats(parser)
    chosen = parsed(parser, tables="tables")
    if min(chosen.counters) < 1 or chosen.repeats < 1:
        parser.error("--counters and --repeats must be at least 1")
    results = []
    for counters in chosen.counters:
        with own_servers() as settings:
            results.append(measure(settings, counters=counters, repeats=chosen.repeats))
    show({"results": [asdict(result) for result in results]}, map(table, results), as_json=chosen.json)


if __name__ == "__main__":
    main()

"""How the merging of a month grows with its groups (team, service, provider and model), here and on another PostgreSQL.

Both servers and all sizes are measured in turns within one run, so that their ratios hold on a noisy machine.
Run: python -m benchmarks.merges [--groups N] [--other URL] [--repeats N] [--json]
`--other` is an empty database of another server, for example of the oldest version that is supported.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from itertools import product

from rich.table import Table

from benchmarks.harness import add_repeats, measure_in_turns, medians, own_servers, paired_ratio, parsed, show, table_of
from usage_pipeline.rollups.calendar import Window, month_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import connect

GROUPS = 500
TIMES = (1, 4)
MONTH = date(2025, 10, 1)
_USERS = """
insert into analytics.usage_user_daily (
    usage_date, team, service, provider, model, user_id, requests, errors, input_tokens, output_tokens, total_tokens,
    unpriced_requests
)
select day::date, 'team-' || g %% 50, 'service-' || g, 'openai', 'model-' || g %% 10, 'user-' || u, 5, 0, 100, 100, 200, 0
from generate_series(%(first)s::date, %(last)s::date, interval '1 day') as day,
    generate_series(1, %(groups)s) as g,
    generate_series(1, 2) as u
"""
_LATENCIES = """
insert into analytics.usage_latency_daily (usage_date, team, service, provider, model, latencies_ms, requests)
select day::date, 'team-' || g %% 50, 'service-' || g, 'openai', 'model-' || g %% 10,
    array[100, 200, 300, 400, 500 + g %% 7], array[2, 2, 2, 2, 2]
from generate_series(%(first)s::date, %(last)s::date, interval '1 day') as day,
    generate_series(1, %(groups)s) as g
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats in milliseconds, of the small and of the large month; ratios paired within a repeat."""

    server: str
    groups: int
    repeats: int
    small_ms: float
    large_ms: float
    large_to_small: float
    large_to_this_server: float


class Bench:
    """A month of one server. Its groups are written anew for each size, and only the merging is timed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._postgres = connect(settings)
        self._month: Window = month_window(MONTH, settings.timezone)
        [(self.version,)] = self._postgres.execute("show server_version").fetchall()

    def merge(self, groups: int) -> float:
        """Months a second."""
        self._postgres.execute(
            "truncate analytics.usage_user_daily, analytics.usage_latency_daily, analytics.usage_monthly"
        )
        sizes = {"first": self._month.day, "last": date(2025, 10, 31), "groups": groups}
        for statement in (_USERS, _LATENCIES):
            self._postgres.execute(statement, sizes)
        for table in ("usage_user_daily", "usage_latency_daily"):
            self._postgres.execute(f"vacuum analyze analytics.{table}")
        started = time.perf_counter()
        report = replace_window(self._postgres, self._month, settings=self._settings)
        seconds = time.perf_counter() - started
        if report.rows != groups:
            raise RuntimeError(f"expected {groups} rows, came {report.rows}")
        return 1 / seconds

    def close(self) -> None:
        self._postgres.close()


@contextmanager
def _benches(other: str | None) -> Iterator[dict[str, Bench]]:
    with ExitStack() as stack:
        every = [stack.enter_context(own_servers())]
        if other is not None:
            migrate(other)
            every.append(load_settings(database_url=other, redis_url=every[0].redis_dsn.get_secret_value()))
        benches = [stack.enter_context(closing(Bench(settings))) for settings in every]
        yield {f"PostgreSQL {bench.version}": bench for bench in benches}


def measure(benches: dict[str, Bench], *, groups: int, repeats: int) -> list[Result]:
    """Each server merges a small and a large month, in turns, `repeats` times after a warm-up that is not counted."""
    small, large = (groups * times for times in TIMES)
    subjects = {
        f"{server}, {size} groups": partial(bench.merge, size)
        for (server, bench), size in product(benches.items(), (small, large))
    }
    rates = measure_in_turns(subjects, repeats=repeats, settle=lambda: None)
    ms = {name: 1_000 / a_second for name, a_second in medians(rates).items()}
    this = next(iter(benches))
    return [
        Result(
            server=server,
            groups=groups,
            repeats=repeats,
            small_ms=ms[f"{server}, {small} groups"],
            large_ms=ms[f"{server}, {large} groups"],
            large_to_small=paired_ratio(rates, f"{server}, {small} groups", f"{server}, {large} groups"),
            large_to_this_server=paired_ratio(rates, f"{this}, {large} groups", f"{server}, {large} groups"),
        )
        for server in benches
    ]


def table(results: list[Result]) -> Table:
    """What was measured, as a person reads it."""
    [groups, repeats] = results[0].groups, results[0].repeats
    shown = table_of(
        f"A month of {groups:,} and of {TIMES[1]} times as many groups a day; medians of {repeats}",
        "server",
        "ms",
        f"{TIMES[1]} times as many",
        "ratio",
        "to the first server",
    )
    for one in results:
        shown.add_row(
            one.server,
            f"{one.small_ms:,.0f}",
            f"{one.large_ms:,.0f}",
            f"{one.large_to_small:.1f}",
            f"{one.large_to_this_server:.2f}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=GROUPS, help="groups a day of the small month")
    parser.add_argument("--other", help="URL of an empty database of another server, which is measured beside it")
    add_repeats(parser)
    chosen = parsed(parser)
    if min(chosen.groups, chosen.repeats) < 1:
        parser.error("--groups and --repeats must be at least 1")
    with _benches(chosen.other) as benches:
        results = measure(benches, groups=chosen.groups, repeats=chosen.repeats)
    show({"results": [asdict(one) for one in results]}, [table(results)], as_json=chosen.json)


if __name__ == "__main__":
    main()

"""Requests a second and latencies of the read side: a ranking from the cache and from the database, and the check of a token.

The floor is a route of the same app that answers a constant to anybody. The same under plain uvicorn, without our limits of
connections, shows what these cost. Everything is measured in turns within one run, on
embedded servers in a temporary folder. Run: python -m benchmarks.api [--requests N] [--repeats N] [--clients N] [--json]
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from statistics import quantiles
from typing import Annotated

import psycopg
import redis
from fastapi import Depends, FastAPI
from rich.table import Table
from starlette.responses import Response

from benchmarks.harness import (
    Rates,
    add_repeats,
    measure_in_turns,
    medians,
    own_servers,
    paired_ratio,
    parsed,
    running_service,
    show,
    table_of,
)
from usage_pipeline.access.tokens import AccessToken, create_token
from usage_pipeline.api.app import app_of_environment
from usage_pipeline.api.auth import requires
from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.settings import Settings

_FLOOR, _CHECK, _RANKING = "/benchmark/floor", "/benchmark/token", "/api/issues/popular"
_CACHE_KEY = "popular:issues"
# As `usage-pipeline api` runs its own, and without what is ours in that.
_SERVICE = ("benchmarks.harness", "benchmarks.api:app")
_PLAIN = ("uvicorn", "benchmarks.api:app", "--factory", "--no-access-log", "--log-level", "warning")
_CONSTANT = b'{"answer": 42}'
_INSERT_RANKING = """
insert into stats.popular_issues (ranking_date, rank, id, title, score, view_count, comment_count, created_at)
select %s, n, 'issue-' || n, 'Title of an issue that is read often, number ' || n, 100 - n, 60, 40 - n, now()
from generate_series(1, 10) as n
"""


def app() -> FastAPI:
    """The service with two more routes: a constant for anybody, and the same for who has a token."""
    made = app_of_environment()

    @made.get(_FLOOR)
    async def floor() -> Response:
        return Response(_CONSTANT, media_type="application/json")

    @made.get(_CHECK)
    async def check(caller: Annotated[AccessToken, Depends(requires("read"))]) -> Response:
        return Response(_CONSTANT, media_type="application/json")

    return made


@dataclass(frozen=True, slots=True)
class Subject:
    """A route, and what its X-Cache says; each miss is made one before its time is taken."""

    name: str
    path: str
    x_cache: str | None = None
    is_plain: bool = False


_HIT = Subject("ranking, hit", _RANKING, "hit")
SUBJECTS = (
    Subject("floor", _FLOOR),
    Subject("floor of plain uvicorn", _FLOOR, is_plain=True),
    Subject("token check", _CHECK),
    _HIT,
    Subject("ranking, miss", _RANKING, "miss"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A running service, and what its clients need."""

    port: int
    token: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of requests a second, paired ratios to the floor, and latencies in ms over all requests of all repeats."""

    requests: int
    repeats: int
    per_second: dict[str, float]
    to_floor: dict[str, float]
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]


def send(target: Target, subject: Subject, requests: int) -> list[float]:
    """One client's requests, one after the other on one connection; the seconds that each took."""
    connection = HTTPConnection(LOOPBACK, target.port, timeout=60)
    headers = {"Authorization": f"Bearer {target.token}", "Accept": "application/json"}
    taken: list[float] = []
    with redis.Redis.from_url(target.redis_url) as cache:
        for number in range(requests + 1):
            if subject.x_cache == "miss":
                cache.delete(_CACHE_KEY)
            began_at = time.perf_counter()
            connection.request("GET", subject.path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            if number:  # the first one connects
                taken.append(time.perf_counter() - began_at)
                if answer.status != 200 or answer.headers.get("X-Cache") != subject.x_cache:
                    raise RuntimeError(f"{subject.name}: came {answer.status}, X-Cache {answer.headers.get('X-Cache')}")
    connection.close()
    return taken


class Bench:
    """What is measured, with one client and with several; latencies are kept."""

    def __init__(self, target: Target, plain: Target, requests: int, clients: int, pool: ProcessPoolExecutor) -> None:
        self._target = target
        self._plain = plain
        self._requests = requests
        self._clients = clients
        self._pool = pool
        self.latencies: dict[str, list[float]] = {}

    def subjects(self) -> dict[str, Callable[[], float]]:
        """Name to what measures it. Misses of several clients would make each other's hits, and are measured with one."""
        found: dict[str, Callable[[], float]] = {}
        for subject in SUBJECTS:
            for clients in (1, self._clients) if subject.x_cache != "miss" else (1,):
                name = f"{subject.name}, {clients} client{'s' if clients > 1 else ''}"
                found[name] = lambda name=name, subject=subject, clients=clients: self._rate(name, subject, clients)  # type: ignore[misc]
        return found

    def _rate(self, name: str, subject: Subject, clients: int) -> float:
        each = self._requests // clients
        began_at = time.perf_counter()
        target = self._plain if subject.is_plain else self._target
        sending = [self._pool.submit(send, target, subject, each) for _ in range(clients)]
        taken = [seconds for one in sending for seconds in one.result()]
        # Of one client only its own waiting counts: a miss is made between two requests.
        seconds = sum(taken) if clients == 1 else time.perf_counter() - began_at
        self.latencies.setdefault(name, []).extend(taken)
        return len(taken) / seconds


def measure(settings: Settings, *, requests: int, repeats: int, clients: int) -> Result:
    """All measurements in turns, `repeats` times after a warm-up that is not counted."""
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        token = create_token(connection, "benchmark", ["read"]).token
        connection.execute(_INSERT_RANKING, (datetime.now(UTC).date(),))
    with (
        running_service(settings, *_SERVICE, path=_FLOOR) as port,
        running_service(settings, *_PLAIN, path=_FLOOR) as plain_port,
        ProcessPoolExecutor(clients) as pool,
    ):
        target, plain = (Target(one, token, settings.redis_dsn.get_secret_value()) for one in (port, plain_port))
        bench = Bench(target, plain, requests, clients, pool)

        def settle() -> None:
            """A hit to begin with, whatever was measured before."""
            try:
                send(target, _HIT, 1)
            except RuntimeError:
                send(target, _HIT, 1)

        rates: Rates = measure_in_turns(bench.subjects(), repeats=repeats, settle=settle)
    cut = {name: quantiles(found, n=100) for name, found in bench.latencies.items()}
    return Result(
        requests=requests,
        repeats=repeats,
        per_second=medians(rates),
        to_floor={name: paired_ratio(rates, name, f"floor, {name.rpartition(', ')[2]}") for name in rates},
        p50_ms={name: found[49] * 1000 for name, found in cut.items()},
        p99_ms={name: found[98] * 1000 for name, found in cut.items()},
    )


def table(result: Result) -> Table:
    """What was measured, as a person reads it."""
    title = f"{result.requests:,} requests each; medians of {result.repeats}"
    shown = table_of(title, "", "requests a second", "to the floor", "p50 ms", "p99 ms")
    for name, rate in result.per_second.items():
        ratio, half, most = result.to_floor[name], result.p50_ms[name], result.p99_ms[name]
        shown.add_row(name, f"{rate:,.0f}", f"{ratio:.2f}", f"{half:.2f}", f"{most:.2f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4_000, help="requests in one measurement")
    add_repeats(parser)
    parser.add_argument("--clients", type=int, default=4, help="clients at a time, besides one alone")
    chosen = parsed(parser)
    if chosen.clients < 2 or chosen.requests < 100 * chosen.clients or chosen.repeats < 1:
        parser.error("expected at least 2 clients, 100 requests for each, and one repeat")
    with own_servers() as settings:
        result = measure(settings, requests=chosen.requests, repeats=chosen.repeats, clients=chosen.clients)
    show(asdict(result), [table(result)], as_json=chosen.json)


if __name__ == "__main__":
    main()

"""How long files of usage events take, by the loader of `load events`, against the same rows over HTTP.

Everything is measured in turns within one run, on embedded servers in a temporary folder.
Run: python -m benchmarks.files [--rows N] [--repeats N] [--json]
"""

import argparse
import gzip
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
import numpy as np
import pandas as pd
import psycopg
from rich.table import Table

from benchmarks.harness import (
    Rates,
    Timed,
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
from usage_pipeline.access.tokens import create_token
from usage_pipeline.events.files.loading import Source, load_file
from usage_pipeline.events.files.names import FileKind
from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

EVENTS_PER_REQUEST = 1_000
_MODELS = [f"gpt-{number}" for number in range(8)]
# What is measured is of the last minutes.
_SECONDS = 600
HTTP = "HTTP, gzip, 1 client"


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats, in rows a second, and the time of each against HTTP, paired within a repeat."""

    rows: int
    repeats: int
    per_second: dict[str, float]
    time_to_http: dict[str, float]


def frame(rows: int) -> pd.DataFrame:
    """Events with ids that nobody has seen."""
    chance = np.random.default_rng(time.time_ns())
    run = uuid4().hex[:8]
    ago = pd.to_timedelta(chance.random(rows) * _SECONDS, unit="s")
    failed = chance.random(rows) < 0.03
    return pd.DataFrame(
        {
            "event_id": [f"{run}-{number}" for number in range(rows)],
            "event_time": (pd.Timestamp(datetime.now(UTC)) - ago).round("us"),
            "user_id": chance.choice([f"user-{number}" for number in range(5_000)], rows),
            "team": chance.choice([f"team-{number}" for number in range(40)], rows),
            "service": chance.choice([f"service-{number}" for number in range(20)], rows),
            "provider": "openai",
            "model": chance.choice(_MODELS, rows),
            "input_tokens": chance.integers(10, 8_000, rows),
            "output_tokens": chance.integers(1, 1_000, rows),
            "latency_ms": chance.integers(50, 20_000, rows),
            "status_code": np.where(failed, 500, 200),
            "error_type": np.where(failed, "overloaded", None),
        }
    )


class Bench:
    """A connection, a running service, and the things to measure."""

    def __init__(self, settings: Settings, url: str, token: str, rows: int) -> None:
        self._settings = settings
        self._url = url
        self._token = token
        self._rows = rows
        self._postgres = connect(settings)

    def http(self) -> float:
        """Requests of 1,000 events as gzip, one after the other on one connection."""
        events = json.loads(frame(self._rows).to_json(orient="records", date_format="iso"))
        bodies = [
            gzip.compress(json.dumps(events[first : first + EVENTS_PER_REQUEST]).encode(), 6)
            for first in range(0, len(events), EVENTS_PER_REQUEST)
        ]
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        with httpx.Client(trust_env=False, timeout=60, headers=headers) as client:
            client.get(f"{self._url}/")
            with self._all_stored(), self._timed() as rate:
                for body in bodies:
                    client.post(f"{self._url}/api/v1/ingest/requests:bulk", content=body).raise_for_status()
        return rate.per_second

    def file(self, kind: FileKind, written: Callable[[pd.DataFrame], bytes]) -> float:
        """A file on the disk, with all that reading it needs, such as the process that reads Parquet."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "events"
            path.write_bytes(written(frame(self._rows)))
            with self._all_stored(), self._timed() as rate, path.open("rb") as stream:
                source = Source("benchmark", kind, is_local=True)
                loaded = load_file(self._postgres, stream, source, settings=self._settings)
            if loaded.reason is not None:
                raise RuntimeError(loaded.reason)
        return rate.per_second

    def settle(self) -> None:
        """Between two measurements: nothing of the last one is left to be written during the next."""
        self._postgres.execute("vacuum analyze analytics.usage_events, analytics.usage_event_ids")
        self._postgres.execute("checkpoint")

    def close(self) -> None:
        self._postgres.close()

    def _timed(self) -> Timed:
        return Timed(self._rows)

    @contextmanager
    def _all_stored(self) -> Iterator[None]:
        query = "select coalesce(sum(inserted), 0)::bigint from ops.ingest_batches"
        [[before]] = self._postgres.execute(query).fetchall()
        yield
        [[after]] = self._postgres.execute(query).fetchall()
        if after - before != self._rows:
            raise RuntimeError(f"expected {self._rows} rows stored, came {after - before}")


def as_lines(events: pd.DataFrame) -> bytes:
    text: str = events.to_json(orient="records", lines=True, date_format="iso")
    return text.encode()


def as_csv(events: pd.DataFrame) -> bytes:
    return events.to_csv(index=False).encode()


def as_parquet(events: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    events.to_parquet(file)
    return file.getvalue()


def measure(settings: Settings, *, rows: int, repeats: int) -> Result:
    """All measurements in turns, `repeats` times after a warm-up that is not counted."""
    with ExitStack() as stack:
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
            token = create_token(connection, "benchmark", ["ingest"]).token
        port = stack.enter_context(running_service(settings, "usage_pipeline.cli", "api", "--workers", "1"))
        bench = stack.enter_context(closing(Bench(settings, f"http://{LOOPBACK}:{port}", token, rows)))
        subjects: dict[str, Callable[[], float]] = {
            HTTP: bench.http,
            "a Parquet file": partial(bench.file, FileKind("parquet"), as_parquet),
            "a CSV file": partial(bench.file, FileKind("csv"), as_csv),
            "a file of JSON lines": partial(bench.file, FileKind("lines"), as_lines),
        }
        rates: Rates = measure_in_turns(subjects, repeats=repeats, settle=bench.settle)
    return Result(
        rows=rows,
        repeats=repeats,
        per_second=medians(rates),
        time_to_http={name: 1 / paired_ratio(rates, name, HTTP) for name in rates},
    )


def table(result: Result) -> Table:
    """What was measured, as a person reads it."""
    shown = table_of(f"{result.rows:,} rows; medians of {result.repeats}", "", "rows a second", "time against HTTP")
    for name, rate in result.per_second.items():
        shown.add_row(name, f"{rate:,.0f}", f"{result.time_to_http[name]:.2f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows in one measurement")
    add_repeats(parser)
    chosen = parsed(parser)
    if chosen.rows < EVENTS_PER_REQUEST or chosen.repeats < 1:
        parser.error(f"expected at least {EVENTS_PER_REQUEST} rows and one repeat")
    with own_servers() as settings:
        result = measure(settings, rows=chosen.rows, repeats=chosen.repeats)
    show(asdict(result), [table(result)], as_json=chosen.json)


if __name__ == "__main__":
    main()

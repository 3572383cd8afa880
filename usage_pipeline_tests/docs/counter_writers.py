"""The programs of docs/write-counters.md as files, and a load for each, which must count once whatever the link does.

By hand, with more load, servers of its own, a Redis that stops, and drains that are killed:
python -m usage_pipeline_tests.docs.counter_writers node go shell
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psycopg

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.sql import load
from usage_pipeline_tests.rigs.commands import command_environment
from usage_pipeline_tests.rigs.places import DOCS, PROJECT
from usage_pipeline_tests.torture.faulty_link import FAULTS, FaultyLink
from usage_pipeline_tests.torture.servers import RedisServer, Stage

PAGE = (DOCS / "write-counters.md").read_text(encoding="utf-8")
API_KEYS, MERCHANTS = 97, 13
CLOSE_SECONDS = 60
# (family, id, field); a merchant's days are summed
Counts = Counter[tuple[str, str, str]]

_NODE_LOAD = """
import { setTimeout as sleep } from 'node:timers/promises'
import { usageRecorder } from './usage-recorder.mjs'

const [total, tasks, seconds, seconds_to_close] = process.argv.slice(2).map(Number)
const recorder = usageRecorder(process.env.REDIS_URL)
await Promise.all(Array.from({ length: tasks }, async (_, first) => {
  for (let n = first; n < total; n += tasks) {
    const isKept = n % 2
      ? recorder.recordMerchant(`merchant-${n % MERCHANTS}`, 'orders', n % 5)
      : recorder.recordApiKey(`key-${n % API_KEYS}`, { bytes: n % 7 })
    if (!isKept) process.exit(1)
    await sleep(seconds * 1000 * tasks / total)
  }
}))
if (!await recorder.close(seconds_to_close * 1000) || Object.keys(recorder.dropped).length) process.exit(1)
"""
_GO_LOAD = """
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

func argument(at int) int64 {
	number, err := strconv.ParseFloat(os.Args[at], 64)
	if err != nil {
		panic(err)
	}
	return int64(number * 1e9)
}

func main() {
	total, tasks, seconds, secondsToClose := argument(1)/1e9, argument(2)/1e9, argument(3), argument(4)
	recorder := NewRecorder(os.Getenv("REDIS_URL"), time.Second, time.UTC)
	var all sync.WaitGroup
	for first := int64(0); first < tasks; first++ {
		all.Add(1)
		go func(n int64) {
			defer all.Done()
			for ; n < total; n += tasks {
				isKept := false
				if n%2 == 1 {
					isKept = recorder.Merchant(fmt.Sprint("merchant-", n%MERCHANTS), "orders", n%5)
				} else {
					isKept = recorder.APIKey(fmt.Sprint("key-", n%API_KEYS), 1, 0, n%7, 0)
				}
				if !isKept {
					os.Exit(1)
				}
				time.Sleep(time.Duration(seconds * tasks / total))
			}
		}(first)
	}
	all.Wait()
	if !recorder.Close(time.Duration(secondsToClose)) {
		os.Exit(1)
	}
}
"""
_SHELL_LOAD = """
total=$1 tasks=$2
for ((first = 0; first < tasks; first++)); do
  (
    . ./client.sh
    for ((n = first; n < total; n += tasks)); do
      if ((n % 2)); then
        record_merchant "merchant-$((n % MERCHANTS))" orders "$((n % 5))"
      else
        record_api_key "key-$((n % API_KEYS))" successful
      fi || exit 1
    done
  ) &
done
status=0
for job in $(jobs -p); do wait "$job" || status=1; done
exit "$status"
"""


class NotToBeHad(Exception):
    """What a language needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Writer:
    """In its folder: the page's `example`, and `load`, whose arguments are records, tasks, seconds, seconds for the end."""

    language: str
    version: str
    example: tuple[str, ...]
    load: tuple[str, ...]
    folder: Path
    has_odometer: bool = True

    def expected(self, records: int) -> Counts:
        """What its load adds, over all keys and fields."""
        counts: Counts = Counter()
        for number in range(records):
            if number % 2:
                counts["merchant", f"merchant-{number % MERCHANTS}", "metric_value"] += number % 5
            else:
                key = f"key-{number % API_KEYS}"
                counts["api_key", key, "total_requests"] += 1
                counts["api_key", key, "successful_requests"] += 1
                counts["api_key", key, "total_file_size"] += number % 7 if self.language != "Shell" else 0
        return +counts


def program(name: str) -> str:
    """The block of the page that begins with the name of its file."""
    [text] = re.findall(rf"^```\w+\n((?://|#) {re.escape(name)}\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def put(folder: Path, *names: str) -> None:
    """The page's files, and the script by the page's command."""
    for name in names:
        (folder / name).write_text(program(name), encoding="utf-8")
    [command] = re.findall(r"^(python3 -c .*> record\.lua)$", PAGE, re.MULTILINE)
    subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "CLONE": str(PROJECT)}, check=True)


def node(folder: Path) -> Writer:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotToBeHad("node and npm are not installed")
    put(folder, "usage-recorder.mjs", "app.mjs")
    _run(folder, "npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "ioredis", why="the npm registry")
    (folder / "load.mjs").write_text(_with_numbers(_NODE_LOAD), encoding="utf-8")
    version = _run(folder, "node", "-p", "`${process.version}, ioredis ${require('ioredis/package.json').version}`")
    return Writer("Node.js", version, ("node", "app.mjs"), ("node", "load.mjs"), folder)


def go(folder: Path) -> Writer:
    if shutil.which("go") is None:
        raise NotToBeHad("go is not installed")
    variables = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "GOCACHE": str(folder / "cache")}
    _run(folder, "go", "list", "github.com/gomodule/redigo/redis", why="redigo in /usr/share/gocode", **variables)
    put(folder, "recorder.go", "main.go")
    _run(folder, "go", "build", "-o", "usage", ".", **variables)
    (folder / "main.go").unlink()
    (folder / "load.go").write_text(_with_numbers(_GO_LOAD), encoding="utf-8")
    _run(folder, "go", "build", "-o", "load", ".", **variables)
    version = f"{_run(folder, 'go', 'version').split()[2].removeprefix('go')}, redigo of Debian"
    return Writer("Go", version, ("./usage",), ("./load",), folder)


def shell(folder: Path) -> Writer:
    put(folder, "record-usage.sh", "app.sh")
    # Without its last lines, the example is what a program of one's own begins with.
    (folder / "client.sh").write_text(
        re.sub(r"^record_.*\n", "", program("app.sh"), flags=re.MULTILINE), encoding="utf-8"
    )
    (folder / "load.sh").write_text(_with_numbers(_SHELL_LOAD), encoding="utf-8")
    version = _run(folder, "bash", "-c", "echo bash ${BASH_VERSION%%(*}, $(redis-cli --version)", **_path())
    return Writer("Shell", version, ("bash", "app.sh"), ("bash", "load.sh"), folder, has_odometer=False)


def _path() -> dict[str, str]:
    """With the client that comes with the tests' own server, where the machine has none."""
    return {"PATH": f"{os.environ['PATH']}{os.pathsep}{redis_executable().parent}"}


WRITERS = {"node": node, "go": go, "shell": shell}


def start(writer: Writer, redis_url: str, command: Sequence[str], *arguments: float) -> subprocess.Popen[bytes]:
    parts = urlsplit(redis_url)
    variables = {"REDIS_URL": redis_url, "REDIS_PORT": str(parts.port)}
    if parts.password:
        variables["REDISCLI_AUTH"] = parts.password
    words = [*command, *map(str, arguments)]
    return subprocess.Popen(words, cwd=writer.folder, env=os.environ | _path() | variables, start_new_session=True)


def trouble(link: FaultyLink, number: int, seconds: float) -> None:
    """One stall, of another kind for each number: what is delayed arrives after its repetition."""
    link.fault = FAULTS[1:][number % len(FAULTS[1:])]
    time.sleep(seconds)
    link.fault = "none"
    time.sleep(seconds)
    link.release()


def stored(settings: Settings) -> Counts:
    """What is in PostgreSQL after drains and an aggregation of all that is in Redis."""
    while drain_once(settings, wait_for_lock_seconds=30).keys:
        pass
    today = datetime.now(UTC).date()
    aggregate(settings, [today - timedelta(days=1), today])
    counts: Counts = Counter()
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as postgres:
        rows = postgres.execute(load("local/select_stored_counts"), {"ids": "%", "token_ids": []}).fetchall()
    for family, key, field, value in rows:
        counts[family, key.split(":")[0], field] += int(value)
    return +counts


def _with_numbers(text: str) -> str:
    return text.replace("API_KEYS", str(API_KEYS)).replace("MERCHANTS", str(MERCHANTS))


def _run(folder: Path, *command: str, why: str = "", **variables: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        if why:
            raise NotToBeHad(f"{why} is not to be had: {(error.stderr or b'')[-200:]!r}") from error
        raise
    return done.stdout.strip()


def _measure(name: str, records: int, tasks: int, seconds: float, stalls: int) -> str:
    """A row of the page's table: the load with stalls, a stopped Redis, and drains of which three are killed."""
    with TemporaryDirectory() as folder, Stage() as stage, stage.running_redis() as server, stage.database() as url:
        writer = WRITERS[name](Path(folder))
        settings = load_settings(database_url=url, redis_url=server.url)
        with FaultyLink(server.port) as link:
            drain = _watching(settings)
            process = start(writer, link.url, writer.load, records, tasks, seconds, CLOSE_SECONDS)
            for number in range(stalls):
                trouble(link, number, 0.4)
                if number % (stalls // 3) == 1:
                    drain.kill()
                    drain.wait()
                    drain = _watching(settings)
                if number == stalls // 2:
                    _stop_for(server, 2)
            is_running = process.poll() is None
            status = process.wait(900)
            drain.terminate()
            drain.wait(60)
            link.end_connections()
            time.sleep(1)
        recorded, found = writer.expected(records), stored(settings)
        difference = sum(abs(found[key] - recorded[key]) for key in found.keys() | recorded.keys())
        print(f"status {status}, the writer outlived the stalls: {is_running}", file=sys.stderr)
        return (
            f"| {writer.language} | {writer.version} | {records:,} | {tasks} | {stalls} | "
            f"{found.total():,} of {recorded.total():,} | {difference} |"
        )


def _watching(settings: Settings) -> subprocess.Popen[bytes]:
    variables = {"METRICS_SYNC_INTERVAL_MS": "500", "API_TOKEN_SYNC_INTERVAL_MS": "500"}
    return subprocess.Popen(
        [sys.executable, "-m", "usage_pipeline.cli", "drain", "--watch"],
        env=command_environment(settings) | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _stop_for(server: RedisServer, seconds: float) -> None:
    with server.client() as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("languages", nargs="+", choices=WRITERS)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--stalls", type=int, default=20)
    chosen = parser.parse_args(arguments)
    for name in chosen.languages:
        print(_measure(name, chosen.records, chosen.tasks, chosen.seconds, chosen.stalls), flush=True)


if __name__ == "__main__":
    main()

"""SIGKILL to a run, to the code server in the middle of a drain, and to the daemon: each recovers, and nothing is lost."""

from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import pytest
import redis

from usage_pipeline_tests.end_to_end.rigs.dagster_system import DagsterSystem, running_system, wait_until
from usage_pipeline_tests.rigs.clock import days_ago

STORED = "select coalesce(sum(total_requests), 0)::int from usage.api_keys where api_key_id like %s"


@pytest.fixture(scope="module")
def system() -> Iterator[DagsterSystem]:
    """One for all tests of this file, with one code server. Schedules would take the cores: only a drain is on, later."""
    # As often as a test can wait for; everything else is as the project has it.
    adapt = [("  poll_interval_seconds: 30", "  poll_interval_seconds: 2")]
    with running_system(shares_code_server=True, adapt=adapt) as system:
        system.silence()
        yield system


def write(client: redis.Redis, name: str) -> None:
    """Two requests of each of 300 API keys."""
    for number in range(300):
        client.hset(f"apikey:{name}-{number}:metrics", "total_requests", 2)


def is_stored_once(postgres: psycopg.Connection, client: redis.Redis, name: str) -> bool:
    return postgres.execute(STORED, (f"{name}-%",)).fetchall() == [(600,)] and not client.keys(f"*{name}-*")


def claimed(client: redis.Redis) -> Any:
    return client.keys("usage_pipeline:claim:*")


def run_worker(system: DagsterSystem) -> psutil.Process:
    """The process of the one run that is going on: a child of the code server."""
    [worker] = system.processes("multiprocessing.spawn")
    return worker


def test_a_run_that_is_killed_is_marked_and_started_again_and_nothing_is_lost(
    system: DagsterSystem, postgres: psycopg.Connection, client: redis.Redis
) -> None:
    write(client, "run")
    with system.blocked("usage.api_keys"):
        run = system.launch_run("drain_now")
        wait_until(lambda: claimed(client), "a claimed batch")
        run_worker(system).kill()
        assert system.finished_run(run) == "FAILURE"
    [retry] = wait_until(
        lambda: system.runs(tags=[{"key": "dagster/parent_run_id", "value": run}]), "the run that stands in for it"
    )
    assert system.finished_run(retry["id"]) == "SUCCESS"
    assert is_stored_once(postgres, client, "run")
    assert system.held_slots() == []


def test_a_code_server_that_is_killed_in_the_middle_of_a_drain_goes_on_when_it_is_back(
    system: DagsterSystem, postgres: psycopg.Connection, client: redis.Redis
) -> None:
    write(client, "server")
    with system.blocked("usage.api_keys"):
        # The drain works inside the sensor's tick, in the code server.
        system.turn_on("drain_metrics")
        wait_until(lambda: claimed(client), "a claimed batch")
        system.kill("code-server")
    # What a supervisor does: `dev` stops and says so instead, see test_dev.py.
    system.start_code_server()
    wait_until(lambda: is_stored_once(postgres, client, "server"), "what was claimed and what was not")
    write(client, "after")
    wait_until(lambda: is_stored_once(postgres, client, "after"), "the next counters")


def test_a_daemon_that_is_killed_goes_on_with_its_backfill_and_its_sensors(
    system: DagsterSystem, postgres: psycopg.Connection, client: redis.Redis
) -> None:
    days = [days_ago(ago) for ago in range(60, 0, -1)]
    # The first range run waits for the end of the block: it is surely under way when the daemon dies.
    with system.blocked("ops.touched_days"):
        launched = system.launch_backfill("usage/token_daily", days)
        wait_until(lambda: system.processes("multiprocessing.spawn"), "the first run of the backfill")
        system.kill("daemon")
        write(client, "daemon")
    system.start_daemon()
    backfill = system.finished_backfill(launched)
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill["error"]
    assert backfill["counts"] == (60, 60, 0)
    assert {run["status"] for run in backfill["runs"]} == {"SUCCESS"}
    assert system.partition_statuses("usage/token_daily") == [("MATERIALIZED", str(days[0]), str(days[-1]))]
    wait_until(lambda: is_stored_once(postgres, client, "daemon"), "counters, by a sensor that was on before")


def test_a_run_that_goes_down_with_its_code_server_is_marked_by_run_monitoring(
    system: DagsterSystem, postgres: psycopg.Connection, client: redis.Redis
) -> None:
    """As when the machine goes down: nobody is left who knows of the process."""
    system.turn_off("drain_metrics")
    write(client, "both")
    with system.blocked("usage.api_keys"):
        run = system.launch_run("drain_now")
        wait_until(lambda: claimed(client), "a claimed batch")
        system.kill("code-server")
        run_worker(system).kill()
    system.kill("daemon")
    system.start_code_server()
    system.adapt("  max_runtime_seconds: 21600", "  max_runtime_seconds: 5")
    system.start_daemon()
    assert system.finished_run(run) == "FAILURE"
    [retry] = wait_until(
        lambda: system.runs(tags=[{"key": "dagster/parent_run_id", "value": run}]), "the run that stands in for it"
    )
    wait_until(lambda: is_stored_once(postgres, client, "both"), "what the dead run had claimed")
    system.finished_run(retry["id"])
    wait_until(lambda: system.held_slots() == [], "a free pool")

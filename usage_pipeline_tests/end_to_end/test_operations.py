"""What data engineers see all day, on the real web server and daemon: ticks, backfills, a day that fails, a cancelled drain."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.end_to_end.rigs.browser import open_browser
from usage_pipeline_tests.end_to_end.rigs.dagster_system import LOCATION, DagsterSystem, running_system, wait_until
from usage_pipeline_tests.rigs.clock import days_ago, today

DAYS = [days_ago(ago) for ago in range(60, 0, -1)]
# In the middle of its range run.
BAD = DAYS[45]
SCHEDULE = """query ($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) { ... on Schedule {
    scheduleState { ticks(limit: 5) { runIds } } } } }"""
SENSOR = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
    sensorState { ticks(limit: 50) { runIds } } } } }"""
LATEST = """query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
    assetMaterializations(limit: 1) { runId timestamp } } } }"""


@pytest.fixture(scope="module")
def system() -> Iterator[DagsterSystem]:
    """One for all tests of this file, which come in order: the first looks at what runs by itself, and then turns that off."""
    # A minute is the shortest: the schedules that follow this setting fire while one waits.
    with running_system(USAGE_AGGREGATION_INTERVAL="60000") as system:
        yield system


def asked_for(system: DagsterSystem, kind: str, name: str) -> list[str]:
    """The runs that a schedule or sensor has asked for, those of its newest tick first."""
    query = {"schedule": SCHEDULE, "sensor": SENSOR}[kind]
    found = system.ask(query, selector={**LOCATION, f"{kind}Name": name})[f"{kind}OrError"]
    return [run for tick in found[f"{kind}State"]["ticks"] for run in tick["runIds"]]


def turn_everything_off(system: DagsterSystem) -> None:
    """Until the runs that were asked for are over, too."""
    system.turn_off()
    unfinished = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED"]
    wait_until(lambda: not system.runs(statuses=unfinished), "the end of all runs", timeout_seconds=240)


def write_days(client: redis.Redis, requests: int) -> None:
    """So many requests of each of five API keys on each day, and an upload each."""
    for day in DAYS:
        at_ms = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp() * 1000)
        for number in range(5):
            key = f"{day}-{number}"
            client.hset(f"apikey:{key}:metrics", mapping={"total_requests": requests, "last_used_at": at_ms})
            upload = {"upload_count": 1, "total_file_size": 7, "provider": "s3", "last_used_at": at_ms}
            client.hset(f"provider:{key}:s3:metrics", mapping=upload)


def drain_here(system: DagsterSystem) -> None:
    settings = load_settings(database_url=system.servers.database_url, redis_url=system.servers.redis_url)
    assert drain_once(settings, wait_for_lock_seconds=60).is_complete


def test_sensors_and_schedules_tick_and_materialize_by_themselves(
    system: DagsterSystem, postgres: psycopg.Connection, client: redis.Redis
) -> None:
    # One schedule is enough to see. All of them ask for five runs a minute, which busy cores do not keep up with.
    system.turn_off("daily_tables_hourly", "observe_sources_hourly")
    late = days_ago(3)
    at_ms = int(datetime(late.year, late.month, late.day, 12, tzinfo=UTC).timestamp() * 1000)
    client.hset("apikey:late:metrics", mapping={"total_requests": 3, "last_used_at": at_ms})
    client.incrby(f"usage:m1:{today()}:orders", 7)

    # A sensor that works inside its tick, and tells it as a materialization.
    stored = "select total_requests from usage.api_keys where api_key_id = 'late'"
    assert wait_until(lambda: postgres.execute(stored).fetchall(), "a drained counter") == [(3,)]
    [drained] = wait_until(
        lambda: system.ask(LATEST, key={"path": ["snapshots", "api_key_deltas"]})["assetOrError"][
            "assetMaterializations"
        ],
        "the materialization of a sensor",
    )
    assert drained["runId"] == ""
    # A sensor that asks for runs: of the day that changed.
    run, *_ = wait_until(lambda: asked_for(system, "sensor", "late_days"), "a tick for a late day")
    assert system.finished_run(run) == "SUCCESS"
    daily = "select usage_date, total_requests from usage.api_key_daily where usage_date < %s"
    assert postgres.execute(daily, (today(),)).fetchall() == [(late, 3)]
    # And schedules.
    runs = wait_until(lambda: asked_for(system, "schedule", "merchant_usage_hourly"), "a tick of a schedule")
    turn_everything_off(system)
    assert len(runs) >= 2, "today and yesterday"
    assert {system.finished_run(run) for run in runs} == {"SUCCESS"}
    assert postgres.execute("select merchant_id, metric_value from usage.merchant_usage").fetchall() == [("m1", 7)]


def test_a_backfill_of_sixty_days_equals_the_sums_of_raw(
    system: DagsterSystem, postgres: psycopg.Connection, client: redis.Redis
) -> None:
    write_days(client, 4)
    drain_here(system)
    backfill = system.finished_backfill(system.launch_backfill("usage/api_key_daily", DAYS))
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill["error"]
    assert backfill["counts"] == (60, 60, 0)
    sums = "select usage_date, sum(total_requests) from {} where usage_date = any(%s) group by 1 order by 1"
    daily = postgres.execute(sums.format("usage.api_key_daily"), (DAYS,)).fetchall()
    assert [day for day, _ in daily] == DAYS
    assert daily == postgres.execute(sums.format("raw.api_key_deltas"), (DAYS,)).fetchall()
    assert ("MATERIALIZED", str(DAYS[0]), str(DAYS[-1])) in system.partition_statuses("usage/api_key_daily")


def test_a_day_that_fails_is_red_alone_and_a_re_run_of_the_failed_mends_it(
    system: DagsterSystem, postgres: psycopg.Connection
) -> None:
    asset, before, after = "usage/provider_daily", BAD - timedelta(days=1), BAD + timedelta(days=1)
    postgres.execute(f"alter table usage.provider_daily add constraint bad_day check (usage_date <> '{BAD}')")
    launched = system.launch_backfill(asset, DAYS)
    backfill = system.finished_backfill(launched)
    assert backfill["status"] == "COMPLETED_FAILED"
    assert backfill["counts"] == (60, 59, 1)
    assert system.partition_statuses(asset) == [
        ("MATERIALIZED", str(DAYS[0]), str(before)),
        ("FAILED", str(BAD), str(BAD)),
        ("MATERIALIZED", str(after), str(DAYS[-1])),
    ]
    stored = "select distinct usage_date from usage.provider_daily order by 1"
    assert [day for (day,) in postgres.execute(stored)] == [day for day in DAYS if day != BAD]

    postgres.execute("alter table usage.provider_daily drop constraint bad_day")
    mended = system.finished_backfill(system.re_run_failed(launched))
    assert mended["status"] == "COMPLETED_SUCCESS", mended["error"]
    assert mended["counts"] == (1, 1, 0), "only what was red"
    assert system.partition_statuses(asset) == [("MATERIALIZED", str(DAYS[0]), str(DAYS[-1]))]
    assert [day for (day,) in postgres.execute(stored)] == DAYS


def test_a_drain_that_is_cancelled_loses_nothing_and_leaves_no_slot_of_its_pool(
    system: DagsterSystem, postgres: psycopg.Connection, client: redis.Redis
) -> None:
    for number in range(500):
        client.hset(f"apikey:cancelled-{number}:metrics", "total_requests", 2)
    stored = "select coalesce(sum(total_requests), 0)::int from usage.api_keys where api_key_id like 'cancelled-%'"
    with system.blocked("usage.api_keys"):
        run = system.launch_run("drain_now")
        wait_until(lambda: client.keys("usage_pipeline:claim:*"), "a claimed batch")
        system.cancel(run)
        assert system.finished_run(run) == "CANCELED"
    assert postgres.execute(stored).fetchall() == [(0,)]
    assert system.held_slots() == []

    assert system.finished_run(system.launch_run("drain_now")) == "SUCCESS"
    assert postgres.execute(stored).fetchall() == [(1_000,)]
    assert client.keys("*cancelled-*") == []


def test_a_person_opens_the_lineage_selects_days_launches_their_backfill_and_sees_it_green(
    system: DagsterSystem,
) -> None:
    days = DAYS[-10:]
    system.turn_off()
    with open_browser(system.url) as browser:
        browser.open("/asset-groups?expanded=global%40global%3Ausage")
        browser.wait_for("snapshots", "token_daily")
        browser.click("token_daily")
        browser.wait_for("View in Asset Catalog", "Usage per API token and day")
        browser.click("Materialize selected…")
        # It asks when nothing was drained yet.
        browser.click("Confirm", unless="Partition selection")
        browser.type_after("Partition selection", f"[{days[0]}...{days[-1]}]")
        browser.wait_for("10 partitions")
        before = {backfill["id"] for backfill in system.backfills()}
        browser.click("Launch backfill")
        [launched] = wait_until(lambda: {one["id"] for one in system.backfills()} - before, "a launched backfill")

        browser.open("/runs/?view=backfills")
        assert browser.follow_link_to("/runs/b/") == launched, "the newest is on top"
        assert system.finished_backfill(launched)["counts"] == (10, 10, 0)
        browser.wait_for("Succeeded", "100% completed")
        browser.open("/assets/usage/token_daily?view=partitions")
        browser.wait_for("Materialized (10)", "Failed (0)")


def test_a_range_run_that_is_cancelled_ends_at_once_and_what_was_done_by_then_stands(
    system: DagsterSystem, postgres: psycopg.Connection
) -> None:
    asset, days = "usage/token_daily", DAYS[:6]
    waiting = "select pid from pg_locks where locktype = 'advisory' and not granted"
    with system.postgres() as other, other.transaction():
        # The lock of a day, for which the run waits.
        other.execute("select pg_advisory_xact_lock(hashtext('usage.token_daily'), %s)", (days[4].toordinal(),))
        backfill = system.launch_backfill(asset, days)
        wait_until(lambda: postgres.execute(waiting).fetchall(), "a run that waits")
        [run] = [one["id"] for one in system.backfill(backfill)["runs"]]
        system.cancel(run)
        # What fails is tried again, what is cancelled is not.
        assert system.finished_run(run) == "CANCELED"
        assert postgres.execute(waiting).fetchall() == [], "nor does PostgreSQL go on with it"
    assert system.partition_statuses(asset)[0] == ("MATERIALIZED", str(days[0]), str(days[3]))

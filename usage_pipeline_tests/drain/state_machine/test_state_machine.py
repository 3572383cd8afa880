"""The drain's books are right after every step of random schedules: a short profile of machine.py."""

from contextlib import closing

import psycopg
import redis

from usage_pipeline.settings import Settings
from usage_pipeline_tests.drain.state_machine.ground import Ground
from usage_pipeline_tests.drain.state_machine.machine import run_schedules_on

SCHEDULES = 100
# Any will do; a fixed one makes every run of the tests the same.
SEED = 2


def test_no_schedule_of_drains_crashes_fail_overs_and_lifecycles_loses_or_doubles_anything(
    settings: Settings, redis_url: str, postgres: psycopg.Connection
) -> None:
    with closing(redis.Redis.from_url(redis_url, single_connection_client=True)) as client:
        tally = run_schedules_on(Ground(settings, client, postgres), SCHEDULES, SEED).document()
    assert tally["schedules"] >= SCHEDULES
    assert (tally["lost"], tally["doubled"]) == (0, 0)
    assert tally["written"] == tally["stored"] + tally["dead_letters"]
    # Schedules in which nothing goes wrong would prove nothing.
    rare = (
        "crashes",
        "postgres_connections_ended",
        "commits_not_answered",
        "redis_connections_lost",
        "fail_overs",
        "barriers_fell_short",
        "stopped",
        "budgets_used_up",
        "corrected",
        "applied_by_another",
        "late_keys",
        "dead_letters",
        "days_rolled_up",
        "days_archived",
        "days_dropped",
        "days_kept_for_a_batch",
        "archives_restored",
        "late_for_archived_days",
        "late_for_dropped_days",
        "days_returned",
        "settings_raised",
        "settings_lowered",
    )
    assert [what for what in rare if not tally.get(what)] == []

"""Partitions that cannot be made never keep others waiting: in the rule, and in each of the sensors that ask for partitions.

Dagster starts no run for a run key that it has seen. Here a real instance has the runs, and its keys decide what is an attempt.
"""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import dagster as dg
import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from usage_pipeline.defs.checks.freshness import partitioned_assets
from usage_pipeline.defs.sensors.turns import MOST_PER_TICK, take_turn
from usage_pipeline.settings import Settings

AT = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
TICK = timedelta(seconds=30)
REPEATS = 5


class Daemon:
    """What Dagster's daemon does with run keys: a key that it has seen starts no run. The runs are those of a real instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def start(self, run_key: str) -> bool:
        """Whether a run with this key was started now."""
        seen = dg.RunsFilter(tags={"dagster/run_key": run_key})
        if self._instance.get_runs_count(seen):
            return False
        self._instance.add_run(dg.DagsterRun(job_name="job", tags={"dagster/run_key": run_key}))
        return True


@settings_of_hypothesis(max_examples=10, deadline=None)
@given(
    failing=st.sets(st.integers(0, 59), max_size=50),
    late=st.sets(st.integers(0, 59), max_size=20),
)
def test_every_healthy_partition_gets_a_run_within_a_bounded_number_of_ticks_whatever_fails(
    failing: set[int], late: set[int]
) -> None:
    """60 partitions, of which any fail for ever. Some come only after the others were asked for, as the oldest ones too."""
    names = [f"hour:{number:03}" for number in range(60)]
    waiting = {name: "1" for number, name in enumerate(names) if number not in late}
    healthy = {names[number] for number in range(60) if number not in failing}
    cursor, now = None, AT
    most_ticks = -(-len(names) // (MOST_PER_TICK - REPEATS))
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(instance)
        for arrival in (set(), late):
            waiting |= {names[number]: "1" for number in sorted(arrival)}
            for _ in range(most_ticks):
                wanted = {name: waiting[name] for name in sorted(waiting)}
                turn = take_turn(wanted, cursor, now)
                assert len(turn.ids) <= MOST_PER_TICK
                for name in turn.ids:
                    assert daemon.start(f"{name}:{wanted[name]}:{now:%Y%m%d%H}"), (
                        "an attempt that Dagster drops is none"
                    )
                    if name in healthy:
                        del waiting[name]
                cursor, now = turn.cursor, now + TICK
            assert not healthy & set(waiting)


@pytest.mark.parametrize("failing", [1, MOST_PER_TICK, 60])
def test_what_fails_is_tried_again_ever_more_rarely_and_for_ever(failing: int) -> None:
    """Each is tried at once, after 1, 2, 4, 8 and 16 hours, and then once a day; others delay it by ticks only."""
    names = {f"day:{number}": "1" for number in range(failing)}
    cursor, now = None, AT
    tries: dict[str, list[datetime]] = {name: [] for name in names}
    for _ in range(5 * 24 * 12):
        turn = take_turn(names, cursor, now)
        for name in turn.ids:
            tries[name].append(now)
        cursor, now = turn.cursor, now + timedelta(minutes=5)
    hours = [1, 2, 4, 8, 16, 24, 24]
    for moments in tries.values():
        waits = [later - earlier for earlier, later in pairwise(moments)]
        assert len(waits) >= 6
        for wait, expected in zip(waits, hours, strict=False):
            assert timedelta(hours=expected) <= wait <= timedelta(hours=expected, minutes=60)
    assert "Asked for in vain" in turn.waiting
    assert f"day:0: {len(tries['day:0'])} times" in turn.waiting


def test_a_new_version_is_asked_for_at_once_and_what_was_made_is_forgotten() -> None:
    first = take_turn({"a": "1", "b": "1"}, None, AT)
    assert first.ids == ("a", "b")
    again = take_turn({"a": "2"}, first.cursor, AT + TICK)
    assert again.ids == ("a",)
    assert list(json.loads(again.cursor)) == ["a"]
    assert take_turn({}, again.cursor, AT + 2 * TICK).cursor == "{}"


def test_partitions_that_change_all_the_time_do_not_take_the_places_of_new_ones() -> None:
    cursor, failing = None, [f"hour:{number:03}" for number in range(40)]
    for number in range(4):
        cursor = take_turn(dict.fromkeys(failing, str(number)), cursor, AT + number * TICK).cursor
    wanted = {**dict.fromkeys(failing, "new"), "hour:999": "1"}
    assert "hour:999" in take_turn(wanted, cursor, AT + 9 * TICK).ids


def ticks(definitions: dg.Definitions, instance: dg.DagsterInstance, name: str, count: int) -> tuple[list[str], str]:
    """The run keys of which Dagster starts runs in so many ticks, each with the cursor before it; and the last message."""
    daemon, sensor, cursor, started = Daemon(instance), definitions.resolve_sensor_def(name), None, []
    settings = definitions.get_repository_def().get_top_level_resources()["settings"]
    said = ""
    for _ in range(count):
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, definitions=definitions, resources={"settings": settings}
        )
        result: Any = sensor(context)
        cursor, said = result.cursor, str(result.skip_reason)
        started += [request.run_key for request in result.run_requests or [] if daemon.start(request.run_key)]
    return started, said


def test_a_late_hour_gets_its_run_behind_25_older_ones_that_never_can_be_made(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    for hours in (3, *range(48, 48 + MOST_PER_TICK + 5)):
        postgres.execute(
            "insert into ops.touched_windows (grain, window_start) values ('hour', %s)", (AT - timedelta(hours=hours),)
        )
    started, said = ticks(definitions, instance, "late_windows", 3)
    healthy = f"hour:{AT - timedelta(hours=3):%Y-%m-%d-%H}:00:"
    assert [key for key in started if key.startswith(healthy)]
    assert len(started) == MOST_PER_TICK + 6
    assert "No past hour" in said


def test_a_late_day_gets_its_run_behind_25_older_ones_that_never_can_be_made(
    definitions: dg.Definitions, instance: dg.DagsterInstance, postgres: psycopg.Connection
) -> None:
    days = [AT.date() - timedelta(days=ago) for ago in (1, *range(9, 9 + MOST_PER_TICK + 5))]
    for day in days:
        postgres.execute("insert into ops.touched_days (family, usage_date) values ('api_key', %s)", (day,))
    started, _ = ticks(definitions, instance, "late_days", 3)
    assert {key.split(":")[1] for key in started} == {str(day) for day in days}


def test_all_missed_partitions_get_their_runs_however_many_of_them_cannot_be_made(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("time.time", (AT - timedelta(days=70)).timestamp)
        for one in partitioned_assets(settings):
            key = "2026-01-01-00:00" if one.grain == "hour" else "2026-01-01"
            instance.report_runless_asset_event(dg.AssetMaterialization(one.key, partition=key))
    started, _ = ticks(definitions, instance, "missed_partitions", 6)
    assert len(started) == len(set(started)) > 2 * MOST_PER_TICK
    assert len([key for key in started if key.startswith("missed:usage_hourly:")]) == 24
    # The next tick has nothing new.
    assert ticks(definitions, instance, "missed_partitions", 7)[0] == []

"""Pruning on a real storage: what is old goes, and nothing that the UI shows of assets and checks changes."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.history.prune import AlreadyPruning, HistoryLimits, HistoryReport, prune_history
from usage_pipeline.history.storage import UnknownStorage
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline_tests.rigs.history import REPORTED, History, open_history

LIMITS = HistoryLimits(run_days=30, event_days=7)
EVENTS = "select count(*) from event_logs where run_id = %s"


@pytest.fixture(scope="module")
def made(servers: LocalServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[History, dict[str, str]]]:
    """Runs of half a year, each older than the next; the ids of those that the tests name."""
    with open_history(servers, tmp_path_factory.mktemp("home")) as history:
        runs = {"superseded": history.run("days", "2026-01-01")}
        runs["first_of_two"] = history.run("days", "2026-01-01")
        runs["range"] = history.run("days", "2026-01-05", "2026-01-09")
        runs["failed_range"] = history.run("days", "2026-01-11", "2026-01-13", bad_days=["2026-01-12"])
        runs["turned_red"] = history.run("days", "2026-01-07", bad_days=["2026-01-07"])
        runs["mended"] = history.run("days", "2026-01-11", bad_days=[])
        runs["failed_and_mended"] = history.run("days", "2026-01-15", bad_days=["2026-01-15"])
        history.run("days", "2026-01-15")
        runs["old_check"] = history.run("plain", check_passes=False)
        history.run("plain", check_passes=True)
        runs["latest_check"] = history.run("plain", check_passes=False)
        history.run("watched")
        runs["observed"] = history.run("watched")
        history.report(30)
        history.age(100)
        runs["last_month"] = history.run("days", "2026-01-18")
        runs["failed_last_month"] = history.run("days", "2026-01-19", bad_days=["2026-01-19"])
        history.run("days", "2026-01-19")
        history.report(10)
        history.age(10)
        runs["today"] = history.run("days", "2026-01-20")
        in_progress = history.run("days", "2026-01-20")
        history.connection.execute(
            "update runs set status = 'STARTED', end_time = null, update_timestamp = '2020-01-01' where run_id = %s",
            (in_progress,),
        )
        runs["in_progress"] = in_progress
        yield history, runs


@pytest.fixture(scope="module")
def pruned(made: tuple[History, dict[str, str]]) -> tuple[History, dict[str, str], HistoryReport]:
    history, runs = made
    before = history.statuses()
    rows = count(history, "select count(*) from event_logs where run_id = %s", runs["in_progress"])
    report = prune(history, runs)
    assert history.statuses() == before
    assert history.statuses(anew=True) == before
    assert count(history, EVENTS, runs["in_progress"]) == rows
    return history, runs, report


def prune(history: History, runs: dict[str, str], **limits: float) -> HistoryReport:
    return prune_history(
        history.connection,
        HistoryLimits(**{"run_days": 30, "event_days": 7, **limits}),  # type: ignore[arg-type]
        run_id=runs["today"],
        delete_run=history.instance.delete_run,
        delete_logs=lambda run_id: history.instance.compute_log_manager.delete_logs(prefix=[run_id]),
    )


def count(history: History, query: str, *parameters: object) -> int:
    [(number,)] = history.connection.execute(query, parameters).fetchall()
    return int(number)


def test_old_runs_go_unless_a_status_is_theirs(pruned: tuple[History, dict[str, str], HistoryReport]) -> None:
    history, runs, report = pruned
    left = {run.run_id for run in history.instance.get_runs()}
    gone = {name for name, run_id in runs.items() if run_id not in left}
    assert gone == {"superseded", "failed_and_mended", "old_check"}
    # Those three, a check in between, an observation in between.
    assert report.removed.runs == 5
    assert report.before.runs - report.after.runs == 5
    for name in gone:
        assert count(history, EVENTS, runs[name]) == 0


def test_statuses_are_of_every_kind(pruned: tuple[History, dict[str, str], HistoryReport]) -> None:
    """So that their equality before and after says something."""
    statuses = pruned[0].statuses()
    found = {day[8:]: status.value if status else None for day, status in statuses["partitions"].items()}
    assert {found[day] for day in ("01", "05", "06", "08", "09", "11", "15", "18", "19", "20")} == {"MATERIALIZED"}
    assert {found[day] for day in ("07", "12", "13")} == {"FAILED"}
    assert found["02"] is None
    assert statuses["runs_are_there"] == {True}
    [check] = statuses["check"].values()
    assert (check.status.value, check.run_id) == ("FAILED", pruned[1]["latest_check"])


def test_a_kept_run_keeps_how_it_ended_and_why_and_the_newest_events_of_its_partitions(
    pruned: tuple[History, dict[str, str], HistoryReport],
) -> None:
    history, runs, _ = pruned

    def kinds(name: str) -> dict[str, int]:
        rows = history.connection.execute(
            "select dagster_event_type, count(*) from event_logs where run_id = %s group by 1", (runs[name],)
        )
        return dict(rows.fetchall())

    kept = kinds("range")
    # The seventh was tried again and failed: its newest materialization is here, its newest plan is not.
    assert (kept["ASSET_MATERIALIZATION"], kept["ASSET_MATERIALIZATION_PLANNED"]) == (5, 4)
    assert {"PIPELINE_START", "PIPELINE_SUCCESS"} <= set(kept)
    assert not {"STEP_START", "STEP_SUCCESS", "LOGS_CAPTURED", None} & set(kept)
    assert kinds("failed_range")["STEP_FAILURE"] == 1
    # Of the last month: a success loses its details only, a failure nothing.
    assert "STEP_START" not in kinds("last_month")
    assert "LOGS_CAPTURED" in kinds("last_month"), "so that the UI finds its logs"
    assert "STEP_START" in kinds("failed_last_month")
    assert "STEP_START" in kinds("today")


def test_the_compute_logs_of_a_run_that_stays_go_with_its_days(servers: LocalServers, tmp_path: Path) -> None:
    with open_history(servers, tmp_path / "home") as history:
        files = {}
        for age in ("old", "last_month", "today"):
            run_id = history.run("days", {"old": "2026-01-01", "last_month": "2026-01-02"}.get(age, "2026-01-03"))
            path = Path(history.instance.storage_directory()) / run_id / "compute_logs" / "step.out"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("what the step printed")
            files[age] = run_id, path
            history.age({"old": 30, "last_month": 20}.get(age, 0))
        runs = {age: run_id for age, (run_id, _) in files.items()}
        report = prune(history, runs)
        assert (report.removed.runs, report.removed.logs_of_kept_runs) == (0, 1)
        assert {age: path.exists() for age, (_, path) in files.items()} == {
            "old": False,
            "last_month": True,
            "today": True,
        }
        assert prune(history, runs).removed.logs_of_kept_runs == 0


def test_of_reports_without_a_run_the_newest_stays(pruned: tuple[History, dict[str, str], HistoryReport]) -> None:
    history, _, report = pruned
    assert len(history.instance.fetch_materializations(REPORTED, limit=100).records) == 1
    assert report.removed.event_rows == report.before.event_rows - report.after.event_rows
    # Data versions are tags of events: those of kept ones stay, others go with theirs.
    assert count(history, "select count(*) from asset_event_tags") > 0
    orphans = "select count(*) from asset_event_tags where event_id not in (select id from event_logs)"
    assert count(history, orphans) == 0
    assert report.removed.bytes > 1000 * report.removed.runs
    assert report.removed.check_executions == 2


def test_a_second_time_there_is_nothing_to_do(pruned: tuple[History, dict[str, str], HistoryReport]) -> None:
    history, runs, _ = pruned
    report = prune(history, runs)
    assert (report.removed.runs, report.removed.event_rows, report.removed.check_executions) == (0, 0, 0)
    assert report.is_complete


def test_a_storage_that_is_not_known_is_left_alone(pruned: tuple[History, dict[str, str], HistoryReport]) -> None:
    history, runs, _ = pruned
    with pytest.raises(UnknownStorage, match="has no run nobody"):
        prune(history, {**runs, "today": "nobody"})
    for change, undo, said in (
        (
            "update alembic_version set version_num = 'newer'",
            "update alembic_version set version_num = '29b539ebc72a'",
            "newer",
        ),
        (
            "alter table event_logs rename column partition to part",
            "alter table event_logs rename column part to partition",
            "event_logs.partition",
        ),
    ):
        history.connection.execute(change)
        with pytest.raises(UnknownStorage, match=said):
            prune(history, runs)
        history.connection.execute(undo)


def test_only_one_prunes_and_a_spent_budget_leaves_the_rest_for_the_next(
    pruned: tuple[History, dict[str, str], HistoryReport],
) -> None:
    history, runs, _ = pruned
    history.report(3)
    history.age(20)
    assert not prune(history, runs, budget_seconds=0).is_complete
    with psycopg.connect(history.storage_url) as other:
        other.execute("select pg_advisory_lock(hashtext('prune history'))")
        with pytest.raises(AlreadyPruning):
            prune(history, runs)
    report = prune(history, runs)
    assert report.is_complete
    assert len(history.instance.fetch_materializations(REPORTED, limit=100).records) == 1


def test_a_crash_between_the_rows_of_a_run_and_the_run_leaves_nothing_behind(
    servers: LocalServers, tmp_path: Path
) -> None:
    with open_history(servers, tmp_path / "home") as history:
        runs = {"old": history.run("days", "2026-01-01")}
        runs["today"] = history.run("days", "2026-01-01")
        history.connection.execute("update runs set end_time = 0 where run_id = %s", (runs["old"],))
        before = history.statuses()

        def crash(_: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prune_history(history.connection, LIMITS, run_id=runs["today"], delete_run=crash, delete_logs=crash)
        assert history.instance.get_run_by_id(runs["old"]) is not None
        assert prune(history, runs).removed.runs == 1
        assert history.statuses(anew=True) == before
        assert count(history, EVENTS, runs["old"]) == 0


def test_runs_of_a_backfill_that_goes_on_stay(servers: LocalServers, tmp_path: Path) -> None:
    with open_history(servers, tmp_path / "home") as history:
        runs = {"old": history.run("days", "2026-01-01")}
        runs["today"] = history.run("days", "2026-01-01")
        history.connection.execute(
            "update runs set end_time = 0, backfill_id = 'going' where run_id = %s", (runs["old"],)
        )
        history.connection.execute(
            "insert into bulk_actions (key, status, timestamp) values ('going', 'REQUESTED', now())"
        )
        assert prune(history, runs).removed.runs == 0
        history.connection.execute("update bulk_actions set status = 'COMPLETED_SUCCESS'")
        assert prune(history, runs).removed.runs == 1

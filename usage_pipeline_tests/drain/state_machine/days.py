"""The days of a schedule: they are rolled up, archived, dropped and read back, and their numbers must be right all the while.

A schedule with days writes usage of today and of days long past, and its lifecycles run by clocks that are ahead.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.rollups.dropped import run
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.chunks.partitions import RAW_TABLES, chunks, ensure_partitions_ahead
from usage_pipeline.storage.chunks.tables import RAW
from usage_pipeline.storage.lifecycle import native
from usage_pipeline.storage.lifecycle import run as lifecycle
from usage_pipeline.storage.lifecycle.report import LifecycleReport
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.drain.state_machine.books import FIELDS, Amounts, Drained, InPostgres, Part
from usage_pipeline_tests.rollups.dropped.days import make_again, read_back, roll_up_stale_days, stored_days
from usage_pipeline_tests.storage.lifecycle_rig import age_restores

# When something was used, how far a lifecycle's clock is ahead, and the settings that tell these days apart.
DAYS_AGO = (0, 10, 20)
DAYS_AHEAD = (0, 40, 40)
RETENTION_DAYS = (15, 45, 180, 180, 180)
COMPRESSION_AFTER_DAYS = (7, 7, 45, 180)
# All are past by then.
_LAST_DAYS_AHEAD = max(DAYS_AHEAD)
_LOCK_SECONDS = 0.02

_STATES = """
select 'rolled up', 'raw.' || family || '_deltas', usage_date, 1
from ops.touched_days
where rolled_version >= version
union all
select 'stale', 'raw.' || family || '_deltas', usage_date, 1
from ops.touched_days
where rolled_version < version
union all
select case when returned_at is null then 'dropped' else 'returned' end, table_name, (span_start at time zone 'UTC')::date, 1
from ops.dropped_spans
where table_name like 'raw.%'
union all
select 'in a file', table_name, (chunk_start at time zone 'UTC')::date, rows
from ops.archives
where restored_at is null
  and deleted_at is null
"""
_FORGOTTEN = """
select event_id::text
from unnest(%s::uuid[]) as event_id
where not exists (select from raw.request_event_ids as known where known.event_id = event_id.event_id)
"""
_TABLES = (
    *("usage.api_key_daily", "usage.provider_daily", "usage.token_daily", "ops.archives", "ops.archive_leftovers"),
    *("ops.dropped_spans", "ops.late_data"),
)


@dataclass(slots=True)
class InDays:
    """What is stored of days, by family and day.

    `returned`: what was dropped is in the raw table again, as a sum. `in_files`: how many raw rows are only there.
    """

    numbers: dict[tuple[str, date], Amounts]
    rolled_up: set[tuple[str, date]]
    stale: set[tuple[str, date]]
    dropped: set[tuple[str, date]]
    returned: set[tuple[str, date]]
    in_files: Counter[tuple[str, date]]


def look_into_days(connection: psycopg.Connection) -> InDays:
    numbers: dict[tuple[str, date], Amounts] = {}
    for (family, day, name), counts in stored_days(connection).items():
        of_day = numbers.setdefault((family, day), Counter())
        of_day.update({Part(family, name, field): n for field, n in zip(FIELDS[family], counts, strict=True)})
    found = InDays(numbers, set(), set(), set(), set(), Counter())
    sets = {
        "rolled up": found.rolled_up,
        "stale": found.stale,
        "dropped": found.dropped,
        "returned": found.returned,
    }
    for state, table, day, rows in connection.execute(_STATES):
        name = table.removeprefix("raw.").removesuffix("_deltas"), day
        if state == "in a file":
            found.in_files[name] += rows
        else:
            sets[state].add(name)
    return found


class Days:
    """What happens to days, over the connection of the test. Whatever a drainer holds is left for later."""

    def __init__(self, connection: psycopg.Connection, settings: Settings, families: Collection[str]) -> None:
        self._connection = connection
        self._tables = [table for table in RAW if table.family in families]
        self._folder = Path(tempfile.mkdtemp(prefix="usage-pipeline-days-"))
        self._settings = settings.model_copy(update={"archive_url": str(self._folder / "archive")})
        self._before = InDays({}, set(), set(), set(), set(), Counter())
        self._drained_before = Counter[tuple[str, date]]()
        self._last_settings: tuple[int, int] | None = None
        self.counts: Counter[str] = Counter()

    def roll_up(self) -> None:
        """All days that wait for it, today too, as if it had passed."""
        try:
            self.counts["days_rolled_up"] += roll_up_stale_days(self._connection, today=_far_ahead())
        except psycopg.errors.LockNotAvailable:
            self.counts["days_held"] += 1

    def make_again(self, family: str, days_ago: int) -> None:
        if family != "event":
            try:
                make_again(self._connection, family, _day(days_ago), today=_far_ahead())
            except psycopg.errors.LockNotAvailable:
                self.counts["days_held"] += 1

    def run_lifecycle(
        self, *, days_ahead: int, retention_days: int, compression_after_days: int, has_archive: bool = True
    ) -> LifecycleReport | None:
        """None if a drainer holds what it needs."""
        changes = {"retention_days": retention_days, "compression_after_days": compression_after_days}
        settings = self._settings.model_copy(update=changes if has_archive else {**changes, "archive_url": None})
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(run, "connect", _connect_impatiently)
                patch.setattr(native, "LOCK_SECONDS", _LOCK_SECONDS)
                # Each table and each day costs as much as many steps of a drain; rollups/dropped/ tests all of them.
                patch.setattr(lifecycle, "TABLES", self._tables)
                patch.setattr(native, "DAYS_AHEAD", 0)
                report = run.run_lifecycle(settings, now=datetime.now(UTC) + timedelta(days=days_ahead))
        except psycopg.errors.LockNotAvailable:
            self.counts["lifecycles_held"] += 1
            return None
        assert report.problems == []
        given, last = (retention_days, compression_after_days), self._last_settings or (0, 0)
        if self._last_settings:
            self.counts["settings_raised"] += given[0] > last[0] or given[1] > last[1]
            self.counts["settings_lowered"] += given[0] < last[0] or given[1] < last[1]
        self._last_settings = given
        self.counts["lifecycles"] += 1
        self.counts["days_archived"] += len(report.archived)
        self.counts["days_read_back"] += len(report.restored)
        self.counts["days_kept_for_a_batch"] += sum("is not released" in one.reason for one in report.waiting)
        return report

    def restore(self, at: int, *, ages: bool) -> None:
        """Reads one archive back, or lets those that are back be so for two days."""
        if ages:
            age_restores(self._connection)
        elif found := archives(self._connection, only_in_files=True):
            try:
                read_back(self._connection, self._settings, [found[at % len(found)]])
                self.counts["archives_restored"] += 1
            except psycopg.errors.LockNotAvailable:
                self.counts["days_held"] += 1

    def note_forgotten(self, drained: Drained) -> None:
        """Which events no registry knows any more."""
        if drained.events:
            found = self._connection.execute(_FORGOTTEN, (sorted(drained.event_ids),))
            drained.forgotten.update(event_id for (event_id,) in found)

    # what must hold

    def check(self, stored: InPostgres, drained: Drained) -> None:
        """Asserts that no stored number became less, and that each day that does not wait has all that was drained for it."""
        found = look_into_days(self._connection)
        for name in {*self._before.numbers, *found.numbers}:
            is_now, drained_for_it = found.numbers.get(name, Counter()), drained.of_days.get(name, Counter())
            before = self._before.numbers.get(name, Counter())
            assert before <= is_now, f"{name}: became less: {before}, {is_now}"
            assert is_now <= drained_for_it, f"{name}: {is_now} of {drained_for_it} that were drained"
        for name in found.rolled_up:
            assert found.numbers.get(name, Counter()) == drained.of_days[name], f"{name}: not all that was drained"
        in_table = Counter((delta.family, delta.day) for delta in stored.deltas.values())
        for name in {*drained.rows_of_days, *found.in_files} - found.dropped - found.returned:
            if name[0] in FIELDS:
                rows = in_table[name], found.in_files[name], drained.rows_of_days[name]
                assert rows[0] + rows[1] == rows[2], f"{name}: {rows} rows in the table, in files, drained"
        self.counts["days_dropped"] += len(found.dropped - self._before.dropped)
        self.counts["days_returned"] += len(found.returned - self._before.returned)
        self._count_late(drained)
        self._before, self._drained_before = found, drained.rows_of_days.copy()

    def _count_late(self, drained: Drained) -> None:
        late = {name for name, rows in drained.rows_of_days.items() if rows > self._drained_before[name]}
        self.counts["late_for_dropped_days"] += len(late & self._before.dropped)
        self.counts["late_for_archived_days"] += len(late & {*self._before.in_files})

    def bring_to_rest(self) -> None:
        """Late rows of archived days bring these back; then everything is rolled up, and leaves."""
        self.roll_up()
        if look_into_days(self._connection).stale:
            self.run_lifecycle(days_ahead=0, retention_days=180, compression_after_days=180)
            self.roll_up()
        stale = {name for name in look_into_days(self._connection).stale if name[0] != "event"}
        assert stale == set(), "a day waits for ever"

    def drop_all(self) -> None:
        """No raw row of a schedule at rest may be pinned: all leave."""
        self.run_lifecycle(days_ahead=_LAST_DAYS_AHEAD, retention_days=1, compression_after_days=180)

    def close(self) -> None:
        """Leaves the partitions and tables as it found them."""
        shutil.rmtree(self._folder, ignore_errors=True)
        today = datetime.now(UTC).date()
        for table in RAW_TABLES:
            for chunk in chunks(self._connection, table):
                if not -1 <= (chunk.start.date() - today).days <= 3:
                    self._connection.execute(f"drop table {chunk.name}")
        ensure_partitions_ahead(self._connection)
        self._connection.execute("; ".join(f"delete from {table}" for table in _TABLES))


def _connect_impatiently(settings: Settings) -> psycopg.Connection:
    """Drainers stand still, perhaps with a lock: who waits for them waits in vain."""
    connection = connect(settings)
    connection.execute("select set_config('lock_timeout', %s, false)", (f"{_LOCK_SECONDS}s",))
    return connection


def _day(days_ago: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days_ago)


def _far_ahead() -> date:
    return datetime.now(UTC).date() + timedelta(days=2)

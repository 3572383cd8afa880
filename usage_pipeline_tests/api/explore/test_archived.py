"""Single requests of days whose events are in files, or gone: the answer says that they are not looked at."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.bindings import Bounds
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings
from usage_pipeline.storage.archives.files import restore
from usage_pipeline.storage.archives.manifest import archives
from usage_pipeline.storage.archives.store import ArchiveStore
from usage_pipeline_tests.rigs.service import Service, new_token
from usage_pipeline_tests.rigs.windows import event_at
from usage_pipeline_tests.rollups.trace_rig import roll, store, windows_of

NOW = datetime.now(UTC)
OLD, OLDER, RECENT = (NOW - timedelta(days=days) for days in (20, 40, 1))
DAYS = {"from": str((NOW - timedelta(days=50)).date()), "to": str(NOW.date())}


@pytest.mark.parametrize("is_archived", [True, False], ids=["archived", "dropped"])
def test_days_whose_requests_are_not_in_the_database_are_named(
    service: Service, postgres: psycopg.Connection, settings: Settings, tmp_path: Path, *, is_archived: bool
) -> None:
    events = [event_at(OLD, team="a"), event_at(OLDER, team="b"), event_at(RECENT, team="a")]
    store(postgres, events, settings, NOW)
    roll(postgres, windows_of(events, settings), settings, NOW)
    postgres.execute("delete from ops.touched_windows")

    def asked(bounds: Bounds | None = None) -> Mapping[str, Any]:
        client = service.with_token(new_token(postgres, "read", bounds=bounds))
        answer = client.get("/api/usage/requests", params=DAYS)
        assert answer.status_code == 200, answer.text
        document: Mapping[str, Any] = answer.json()
        return document

    assert asked()["archivedDays"] == []
    assert len(asked()["items"]) == 3
    changes = {"archive_url": str(tmp_path)} if is_archived else {"retention_days": 10}
    run_lifecycle(settings.model_copy(update=changes))
    older, old = str(OLDER.date()), str(OLD.date())
    assert asked()["archivedDays"] == [older, old]
    assert [item["eventTime"][:10] for item in asked()["items"]] == [str(RECENT.date())]
    # Who is bound is told of the days alone on which it used something.
    assert asked(Bounds(teams=("a",)))["archivedDays"] == [old]
    assert asked(Bounds(users=("nobody",)))["archivedDays"] == []
    if is_archived:
        packed = [one for one in archives(postgres, only_in_files=True) if one.chunk_start <= OLD < one.chunk_end]
        for archive in packed:
            restore(postgres, ArchiveStore(str(tmp_path)), archive, interval_hours=24)
        assert asked()["archivedDays"] == [older]
        assert len(asked()["items"]) == 2

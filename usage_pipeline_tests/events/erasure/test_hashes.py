"""After an erasure nothing that is kept gives the id back by trying, and what is sent again is neither new nor a conflict."""

import json
import uuid
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.parquet as pq
import pytest
import redis

from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.corrections.events import Corrected, Wanted, correct
from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, IngestReport, Kind, ingest
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import sql_folder
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event

WHO = "carol@example.com"
OLD = (NOW - timedelta(days=10)).replace(hour=12)


@pytest.fixture
def archiving(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"archive_url": str(tmp_path / "archive")})


def send(postgres: psycopg.Connection, settings: Settings, kind: Kind, *items: dict[str, Any]) -> IngestReport:
    return ingest(postgres, kind, as_items(*items), source="test", settings=settings, now=NOW)


def correction(postgres: psycopg.Connection, settings: Settings, *wanted: dict[str, Any] | str) -> list[Corrected]:
    """Takes out what is an id, and replaces by what has members."""
    steps = [
        Wanted("test", uuid.UUID(one)) if isinstance(one, str) else Wanted("test", event=as_items(one)[0])
        for one in wanted
    ]
    return correct(postgres, steps, corrected_by="test", settings=settings, now=NOW)


def request_event(**changes: Any) -> dict[str, Any]:
    return {
        "event_id": str(uuid.uuid4()),
        "api_key_id": "k",
        "user_id": WHO,
        "provider": "s3",
        "event_type": "upload",
        "file_size": 1,
        "status": "success",
        "at": NOW.isoformat(),
        **changes,
    }


def archive_old_events(postgres: psycopg.Connection, settings: Settings) -> None:
    """As after ten days: the partitions of then are files."""
    postgres.execute("delete from ops.touched_windows")
    postgres.execute("update ops.touched_days set rolled_version = version")
    run_lifecycle(settings)


def hashes_of(events: list[dict[str, Any]], requests: list[dict[str, Any]], archives: list[dict[str, Any]]) -> set[str]:
    """What anybody who tries this id would compute, from what the events said: docs and comments tell how."""
    found = set()
    for one in events:
        columns = ("user_id", "team", "service", "provider", "model", "input_tokens", "output_tokens", "total_tokens")
        one = one | {"total_tokens": one["input_tokens"] + one["output_tokens"]}
        values = [one.get(name) for name in (*columns, "latency_ms", "status_code", "error_type", "prompt", "extra")]
        found.add("\t".join("\\N" if value is None else str(value) for value in values))
    for one in archives:
        found.add("\t".join(one[name] for name in ("user_id", "service", "prompt_full", "response_full")))
    payloads = {text.encode() for text in found}
    for one in requests:
        names = ("api_key_id", "user_id", "provider", "event_type", "file_size", "status")
        payloads.add(msgspec.json.encode((*(one[name] for name in names), None)))
    return {blake2b(payload, digest_size=16).hexdigest() for payload in payloads}


def kept_hashes(postgres: psycopg.Connection) -> str:
    """Every column of every table of ours, as text."""
    tables = postgres.execute(
        "select format('%I.%I', nspname, relname)::text from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
        "where nspname in ('raw', 'usage', 'analytics', 'ops', 'stats') and relkind in ('r', 'p') and not relispartition"
    ).fetchall()
    return "\n".join(
        str(row) for (table,) in tables for row in postgres.execute(f"select t::text from {table} as t").fetchall()
    )


def test_no_hash_gives_the_id_back_and_what_comes_again_is_a_duplicate(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis
) -> None:
    old, new = event(user_id=WHO, event_time=OLD.isoformat()), event(user_id=WHO)
    own = [archive(one["event_id"], user_id=WHO) for one in (old, new)]
    requests = [request_event(at=at.isoformat()) for at in (OLD, NOW)]
    send(postgres, archiving, EVENTS, old)
    send(postgres, archiving, ARCHIVES, own[0])
    redis_client.rpush("event_queue", json.dumps(requests[0]))
    drain_once(archiving)
    archive_old_events(postgres, archiving)
    send(postgres, archiving, EVENTS, new)
    send(postgres, archiving, ARCHIVES, own[1])
    conflicts = [one | {"latency_ms": 1} for one in (old, new)]
    send(postgres, archiving, EVENTS, *conflicts)
    redis_client.rpush("event_queue", json.dumps(requests[1]), json.dumps(requests[1] | {"file_size": 2}))
    drain_once(archiving)
    others = [one | {"user_id": "omar"} for one in requests]
    redis_client.rpush("event_queue", *map(json.dumps, others))
    drain_once(archiving)
    tried = hashes_of([old, new, *conflicts], [*requests, requests[1] | {"file_size": 2}], own)
    assert {one for one in tried if one in kept_hashes(postgres)} == tried, "the test knows how hashes are made"

    assert erase(archiving, WHO).problems == []
    kept = kept_hashes(postgres)
    assert [one for one in tried if one in kept] == []

    letters = "select count(*) from ops.dead_letters"
    before = postgres.execute(letters).fetchall()
    for again in ([old, new], conflicts):
        report = send(postgres, archiving, EVENTS, *again)
        assert (report.inserted, report.duplicates, report.conflicts) == (0, 2, 0)
    for again in (own, [one | {"prompt_full": "another"} for one in own]):
        report = send(postgres, archiving, ARCHIVES, *again)
        assert (report.inserted, report.duplicates, report.conflicts) == (0, 2, 0)
    redis_client.rpush("event_queue", *map(json.dumps, [*requests, *others]))
    drain_once(archiving)
    assert postgres.execute(letters).fetchall() == before
    assert WHO not in kept_hashes(postgres)


def test_no_version_of_a_corrected_event_gives_the_id_back(postgres: psycopg.Connection, archiving: Settings) -> None:
    """Taken out; replaced by what is another user's; replaced twice; kept out and accepted; taken out and put back."""
    first = [event(user_id=WHO, input_tokens=number) for number in range(5)]
    last = [one | {"input_tokens": 100 + number} for number, one in enumerate(first)]
    last[1] |= {"user_id": "omar"}
    send(postgres, archiving, EVENTS, *first, *last)
    texts = archive(first[0]["event_id"], user_id="mallory", prompt_full="of carol")
    send(postgres, archiving, ARCHIVES, texts)
    made = correction(postgres, archiving, first[0]["event_id"], *last[1:4], first[2] | {"latency_ms": 2})
    made += correction(postgres, archiving, first[4]["event_id"])
    made += correction(postgres, archiving, last[4])
    assert {one.outcome for one in made} == {"corrected"}
    tried = hashes_of([*first, *last[2:], first[2] | {"latency_ms": 2}], [], [])
    assert {one for one in tried if one in kept_hashes(postgres)} == tried, "the test knows how hashes are made"
    assert erase(archiving, WHO).problems == []
    kept = kept_hashes(postgres)
    assert [one for one in tried if one in kept] == []
    assert (WHO in kept, "of carol" in kept) == (False, False)
    report = send(postgres, archiving, EVENTS, *first, *last)
    assert (report.inserted, report.duplicates, report.conflicts) == (0, 10, 0)
    [refused, again] = correction(postgres, archiving, first[0], first[3]["event_id"])
    assert (refused.outcome, again.outcome) == ("refused", "corrected")
    erased = erase(archiving, WHO)
    assert (erased.problems, WHO in kept_hashes(postgres)) == ([], False)


def test_archives_of_the_user_s_events_go_whoever_sent_them(postgres: psycopg.Connection, archiving: Settings) -> None:
    """A sender can name another user in an archive than the event has. Then the user's own one is a conflict."""
    for at in (OLD, NOW - timedelta(hours=1)):
        theirs, others = event(user_id=WHO, event_time=at.isoformat()), event(user_id="omar", event_time=at.isoformat())
        send(postgres, archiving, EVENTS, theirs, others)
        send(postgres, archiving, ARCHIVES, archive(theirs["event_id"], user_id="mallory", prompt_full="of carol"))
        send(postgres, archiving, ARCHIVES, archive(theirs["event_id"], user_id="eve", prompt_full="of carol, too"))
        send(postgres, archiving, ARCHIVES, archive(theirs["event_id"], user_id=WHO, prompt_full="of carol, again"))
        send(postgres, archiving, ARCHIVES, archive(others["event_id"], user_id="omar", prompt_full="of omar"))
        refused = archive(theirs["event_id"], user_id="", prompt_full="of carol, refused")
        postgres.execute(
            "insert into ops.dead_letters (family, source_key, reason, raw, raw_format, claimed_at) "
            "values ('message_archive', 'file', 'user_id: expected 1 to 200 characters, came 0', %s, 'string', now())",
            (json.dumps(refused).encode(),),
        )
        if at is OLD:
            archive_old_events(postgres, archiving)
    assert erase(archiving, WHO).problems == []
    assert "of carol" not in kept_hashes(postgres)
    left = postgres.execute("select other_payload from ops.event_conflicts").fetchall()
    left += postgres.execute("select raw from ops.dead_letters").fetchall()
    assert len(left) == 6
    assert [raw for (raw,) in left if b"of carol" in raw] == []
    files = [path for path in Path(str(archiving.archive_url)).rglob("*.parquet") if "message_archives" in str(path)]
    assert [row["prompt_full"] for path in files for row in pq.read_table(path).to_pylist()] == ["of omar"]
    assert postgres.execute("select user_id, prompt_full from analytics.message_archives").fetchall() == [
        ("omar", "of omar")
    ]


def test_an_upgrade_forgets_what_earlier_erasures_left(
    postgres: psycopg.Connection, archiving: Settings, redis_client: redis.Redis
) -> None:
    """Before 0017 the hashes stayed. Its statements change nothing where they ran before, so they can run again here."""
    for at in (OLD, NOW - timedelta(hours=1)):
        theirs, others = event(user_id=WHO, event_time=at.isoformat()), event(user_id="omar", event_time=at.isoformat())
        send(postgres, archiving, EVENTS, theirs, others)
        send(postgres, archiving, EVENTS, theirs | {"latency_ms": 1}, others | {"latency_ms": 1})
        send(postgres, archiving, ARCHIVES, archive(theirs["event_id"], user_id=WHO))
        requests = [request_event(at=at.isoformat()), request_event(at=at.isoformat(), user_id="omar")]
        redis_client.rpush("event_queue", *map(json.dumps, requests))
        redis_client.rpush("event_queue", *(json.dumps(one | {"file_size": 2}) for one in requests))
        drain_once(archiving)
        if at is OLD:
            archive_old_events(postgres, archiving)
    registries = ("analytics.usage_event_ids", "analytics.message_archive_ids", "raw.request_event_ids")
    tables = [*((table, "payload_hash", "event_id") for table in registries)]
    tables += [("ops.event_conflicts", name, "event_conflict_id") for name in ("stored_hash", "other_hash")]
    tables += [("ops.dead_letters", "reason", "dead_letter_id")]

    def kept() -> dict[str, dict[Any, Any]]:
        return {
            f"{table}.{column}": dict(postgres.execute(f"select {key}, {column} from {table}").fetchall())
            for table, column, key in tables
        }

    before = kept()
    erase(archiving, WHO)
    after = kept()
    for table, column, key in tables:
        for number, value in before[f"{table}.{column}"].items():
            postgres.execute(f"update {table} set {column} = %s where {key} = %s", (value, number))
    statements = (sql_folder() / "migrations" / "versions" / "0017_erasure_and_landing.sql").read_text()
    postgres.execute(statements)
    upgraded = kept()
    # All that is in files is forgotten, of omar as well: a migration does not read files.
    old_of_omar = {
        number
        for name in ("analytics.usage_event_ids", "raw.request_event_ids")
        for number, value in after[f"{name}.payload_hash"].items()
        if value is not None and upgraded[f"{name}.payload_hash"][number] is None
    }
    assert len(old_of_omar) == 2
    for name in before:
        for number, value in after[name].items():
            if value is None or (name == "ops.dead_letters.reason" and "came a value that was erased" in value):
                assert upgraded[name][number] is None or "(hash" not in upgraded[name][number]
    for name in ("analytics.usage_event_ids.payload_hash", "raw.request_event_ids.payload_hash"):
        assert sum(value is not None for value in upgraded[name].values()) == 1


def test_an_upgrade_without_erasures_forgets_nothing(postgres: psycopg.Connection, archiving: Settings) -> None:
    one = event()
    send(postgres, archiving, EVENTS, one)
    send(postgres, archiving, EVENTS, one | {"latency_ms": 1})
    before = kept_hashes(postgres)
    postgres.execute((sql_folder() / "migrations" / "versions" / "0017_erasure_and_landing.sql").read_text())
    assert kept_hashes(postgres) == before

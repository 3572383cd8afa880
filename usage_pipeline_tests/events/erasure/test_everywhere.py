"""After an erasure the id is in no column of the database, in no file, and not in Dagster's history, however it is spelled."""

import gzip
import json
import re
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pyarrow.parquet as pq
import redis
from psycopg import sql

from usage_pipeline.access.tokens import create_token
from usage_pipeline.alerting.reading import read_dead_letters
from usage_pipeline.bindings import Bounds
from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.publishing import publish
from usage_pipeline.budgets.standing import standings
from usage_pipeline.budgets.store import budgets, set_budget
from usage_pipeline.definitions import build_definitions
from usage_pipeline.drain.dead_letters import Choice
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.drain.ways_out.discard import Decision, discard
from usage_pipeline.events.corrections.events import Wanted, correct
from usage_pipeline.events.erasure.erase import erase
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, ingest
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.dropped.run import run_lifecycle
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.erasure.test_spellings import WRITERS
from usage_pipeline_tests.rigs.events import NOW, archive, as_items, event

WHO = 'zoë+7/o"hara@x.org'
SECRET = "my secret question"
OLD = (NOW - timedelta(days=10)).replace(hour=12)


def plain(text: str) -> str:
    """The text without escapes of JSON, of Python, and of PostgreSQL. Twice: one kind of text may be inside another."""
    for _ in range(2):
        text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub(r'\\+(["\'/])', r"\1", text)
    return text


def traces(place: str, content: bytes | str) -> list[str]:
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    return [f"{place}: {each}" for each in (WHO, SECRET) if each in plain(text)]


def traces_in_database(postgres: psycopg.Connection) -> list[str]:
    """Every column of every table of every schema but PostgreSQL's own."""
    found: list[str] = []
    columns = postgres.execute(
        "select table_schema, table_name, column_name from information_schema.columns join information_schema.tables "
        "using (table_schema, table_name) where table_type = 'BASE TABLE' "
        "and table_schema not in ('pg_catalog', 'information_schema')"
    ).fetchall()
    assert len(columns) > 300
    for schema, table, column in columns:
        name = sql.Identifier(column)
        query = sql.SQL("select {0}::text from {1} where {0} is not null")
        for (cell,) in postgres.execute(query.format(name, sql.Identifier(schema, table))).fetchall():
            content = bytes.fromhex(cell[2:]) if cell.startswith("\\x") and len(cell) % 2 == 0 else cell
            found += traces(f"{schema}.{table}.{column}", content)
    return found


def traces_in_files(*folders: Path) -> list[str]:
    found: list[str] = []
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            found += traces(str(path), "\n".join(str(value) for row in rows for value in row.values()))
        else:
            raw = path.read_bytes()
            found += traces(str(path), gzip.decompress(raw) if path.suffix == ".gz" else raw)
    return found


def store_everywhere(postgres: psycopg.Connection, settings: Settings, client: redis.Redis, landing: Path) -> None:
    for at in (OLD, NOW - timedelta(days=1)):
        mine = event(user_id=WHO, event_time=at.isoformat(), prompt=SECRET, extra={"mail": WHO})
        ingest(postgres, EVENTS, as_items(mine), source="test", settings=settings, now=NOW)
        ingest(postgres, EVENTS, as_items(mine | {"latency_ms": 1}), source="test", settings=settings, now=NOW)
        for who in (WHO, "mallory"):
            own = archive(mine["event_id"], user_id=who, prompt_full=SECRET)
            ingest(postgres, ARCHIVES, as_items(own), source="test", settings=settings, now=NOW)
        corrected = [mine | {"event_id": str(uuid.uuid4())} for _ in range(3)]
        ingest(postgres, EVENTS, as_items(*corrected), source="test", settings=settings, now=NOW)
        own = archive(corrected[0]["event_id"], user_id="mallory", prompt_full=SECRET)
        ingest(postgres, ARCHIVES, as_items(own), source="test", settings=settings, now=NOW)
        wanted = [
            Wanted(f"{WHO} asked", uuid.UUID(corrected[0]["event_id"])),
            Wanted("theirs", event=as_items(corrected[1] | {"user_id": "omar", "prompt": None, "extra": None})[0]),
            Wanted("more", event=as_items(corrected[2] | {"input_tokens": 3})[0]),
        ]
        outcomes = correct(postgres, wanted, corrected_by="test", settings=settings, now=NOW)
        assert [one.outcome for one in outcomes] == ["corrected"] * 3
        request = {
            "user_id": WHO,
            "event_id": mine["event_id"],
            "api_key_id": "k",
            "provider": "s3",
            "event_type": "upload",
            "file_size": 1,
            "status": "success",
            "at": at.isoformat(),
            "note": SECRET,
        }
        stamp = int(at.timestamp() * 1000)
        for number, write in enumerate(WRITERS):
            client.rpush("event_queue", write(request), write(request | {"file_size": 2}), write(request | {"at": 1}))
            client.rpush("event_queue", write(request)[:-1])
            client.rpush(f"apikey:{number}:metrics", write(request))
            items = [event(user_id=WHO, event_time=at.isoformat(), prompt=SECRET, **one) for one in ({}, {"team": ""})]
            (landing / f"{number}-{at.day}.jsonl").write_text("".join(f"{write(one)}\n" for one in items))
            (landing / f"{number}-{at.day}.json.gz").write_bytes(gzip.compress(f"[{write(items[0])}]".encode()))
        client.hset(
            "provider:k:s3:metrics", mapping={"user_id": WHO, "upload_count": 1, "last_used_at": stamp, "n": WHO}
        )
        client.hset("provider:b:s3:metrics", mapping={"user_id": WHO, "upload_count": "many", "note": SECRET})
        drain_once(settings)
        for path in sorted(landing.glob("*.json*")):
            ingest_file(postgres, Landing(str(landing)), path.name, settings=settings)
        discard(postgres, Choice(families=["usage_event"]), Decision(f"{WHO} wrote {SECRET[:2]}", "somebody@host"))
        replace_window(postgres, day_window(at.date(), settings.timezone), settings=settings)
        if at is OLD:
            postgres.execute("delete from ops.touched_windows")
            postgres.execute("update ops.touched_days set rolled_version = version")
            run_lifecycle(settings)


def test_the_id_is_nowhere_in_any_spelling(
    postgres: psycopg.Connection, settings: Settings, redis_client: redis.Redis, tmp_path: Path
) -> None:
    landing, files, home = (tmp_path / name for name in ("landing", "archive", "dagster"))
    for folder in (landing, home):
        folder.mkdir()
    there = settings.model_copy(update={"landing_url": str(landing), "archive_url": str(files)})
    store_everywhere(postgres, there, redis_client, landing)
    definitions = build_definitions({"settings": there})
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        checked = definitions.resolve_job_def("counter_checks").execute_in_process(
            instance=instance, raise_on_error=False
        )
        assert any(not one.passed for one in checked.get_asset_check_evaluations())
        reports: list[Any] = [checked, *read_dead_letters(postgres)]
        bounds = [Bounds(users=(WHO,)), Bounds(teams=("search",), users=("omar", WHO))]
        tokens = [create_token(postgres, "bound", ["read"], bounds=each) for each in bounds]
        for token in tokens:
            redis_client.set(f"api_token:{token.token_prefix}", WHO)
        names = ("of-user", WHO, "of-others")
        scopes = (f"user={WHO}", f"user={WHO}", "team=search")
        for name, scope in zip(names, scopes, strict=True):
            set_budget(postgres, budget_of(name, scope, "day", "1", "requests", None))
            row = (f"budget:{name}:2026-11-01:100", name)
            postgres.execute(
                "insert into ops.alerts (dedupe_key, rule, severity, title, text, remedy)"
                " values (%s, 'budget', 'warning', %s, '', '')",
                row,
            )
        publish(there, standings(postgres, budgets(postgres), there.timezone, NOW))
        assert len(redis_client.keys("usage_pipeline:budget:*=*")) == 2
        before = {place.partition(":")[0] for place in traces_in_database(postgres)}
        assert before >= {
            "analytics.usage_user_daily.user_id",
            "ops.alerts.title",
            "ops.budgets.scope_value",
            "ops.corrections.before",
            "ops.dead_letters.raw",
            "ops.dead_letters.reason",
            "ops.dead_letters.discard_reason",
            "ops.event_conflicts.other_payload",
            "usage.api_access_tokens.users",
            "usage.provider_usage.user_id",
        }
        assert len(traces_in_files(landing, files)) > 10
        done = erase(there, WHO)
        assert done.problems == []
        assert traces_in_database(postgres) == []
        assert redis_client.keys("api_token:*") == []
        assert redis_client.keys("usage_pipeline:budget:*=*") == [b"usage_pipeline:budget:team=search"]
        assert redis_client.smembers("usage_pipeline:budget_scopes") == {b"team=search"}
        assert [budget.name for budget in budgets(postgres)] == ["of-others"]
        ended = "select users[cardinality(users)] = %s, revoked_at is not null from usage.api_access_tokens order by created_at"
        assert postgres.execute(ended, (done.pseudonym,)).fetchall() == [(True, True), (True, False)]
        assert traces_in_files(landing, files, home) == []
        assert traces("reports", str([str(one) for one in reports])) == []


def test_a_file_that_waits_or_is_of_no_kind_that_is_read_is_listed_if_it_names_the_user(
    settings: Settings, tmp_path: Path
) -> None:
    there = settings.model_copy(update={"landing_url": str(tmp_path)})
    (tmp_path / "2026").mkdir()
    (tmp_path / "users.csv").write_text(f"user_id,tokens\nomar,1\n{WHO},2\n")
    (tmp_path / "2026" / "u.txt").write_text(f"{WHO} called")
    (tmp_path / "2026" / "u.jsonl").write_text(json.dumps(event(user_id=WHO)))
    (tmp_path / "2026" / "o.jsonl").write_text(json.dumps(event(user_id="omar")))
    done = erase(there, WHO)
    assert [problem.partition(":")[0] for problem in done.problems] == ["2026/u.jsonl", "users.csv", "2026/u.txt"]

"""An export of LiteLLM's table LiteLLM_SpendLogs: the same requests as by the callback, and each counts once."""

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest

from usage_pipeline.events.formats.litellm import event_of
from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import ingest_file
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import as_csv, as_document, as_lines, as_parquet
from usage_pipeline_tests.events.formats.recorded import payloads
from usage_pipeline_tests.rigs.commands import Run

# The columns of the table in LiteLLM's schema.prisma (litellm-proxy-extras 0.4.110).
COLUMNS = (
    *(
        "request_id",
        "call_type",
        "api_key",
        "spend",
        "total_tokens",
        "prompt_tokens",
        "completion_tokens",
        "startTime",
        "endTime",
    ),
    *(
        "request_duration_ms",
        "completionStartTime",
        "model",
        "model_id",
        "model_group",
        "custom_llm_provider",
        "api_base",
        "user",
    ),
    *(
        "metadata",
        "cache_hit",
        "cache_key",
        "request_tags",
        "team_id",
        "organization_id",
        "end_user",
        "requester_ip_address",
    ),
    *("messages", "response", "session_id", "status", "mcp_namespaced_tool_name", "billing_agent_id", "agent_id"),
    *("proxy_server_request", "litellm_call_id", "created_at", "updated_at"),
)


def moment(seconds: float) -> datetime:
    """Prisma's DateTime has milliseconds, and its column no zone."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=None)


def row(logged: dict[str, Any]) -> dict[str, Any]:
    """The row that LiteLLM 1.110.2 (`get_logging_payload`) writes of the request of a payload."""
    known = logged["metadata"]
    kept = (
        *("user_api_key_alias", "user_api_key_team_id", "user_api_key_org_id", "user_api_key_user_id"),
        *("user_api_key_team_alias", "user_api_key_project_id", "user_api_key_project_alias", "spend_logs_metadata"),
        *("usage_object",),
    )
    metadata = {
        **{name: known.get(name) for name in kept},
        "user_api_key": known.get("user_api_key_hash"),
        **{name: logged.get(name) for name in ("error_information", "cost_breakdown", "model_map_information")},
        "status": "failure" if logged["status"] == "failure" else None,
    }
    made = {
        # Of a hit in the cache each of both writers notes the moment by itself.
        "request_id": re.sub(r"(?<=_cache_hit)[0-9.]+", lambda at: str(float(at[0]) + 0.25), logged["id"]),
        "call_type": logged["call_type"],
        "api_key": known.get("user_api_key_hash") or "",
        "spend": logged["response_cost"],
        **{name: logged[name] for name in ("total_tokens", "prompt_tokens", "completion_tokens", "status")},
        **{name: moment(logged[name]) for name in ("startTime", "endTime")},
        **{name: logged[name] or "" for name in ("model", "model_group", "custom_llm_provider")},
        "user": known.get("user_api_key_user_id") or "",
        "team_id": known.get("user_api_key_team_id") or "",
        "organization_id": known.get("user_api_key_org_id") or "",
        "end_user": logged["end_user"] or "",
        "cache_hit": str(logged["cache_hit"]),
        "request_tags": logged["request_tags"],
        "metadata": metadata,
        **{name: {} for name in ("messages", "response", "proxy_server_request")},
        "litellm_call_id": logged["litellm_call_id"],
        "request_duration_ms": 88,
    }
    return {name: made.get(name) for name in COLUMNS}


def requests() -> list[dict[str, Any]]:
    """Without what only the SDK has: a user that is no end user of the proxy."""
    return [{**logged, "model_parameters": {}} for logged in payloads()]


def json_cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            name: json.dumps(cell)
            if isinstance(cell, dict | list)
            else cell.isoformat(" ", "milliseconds")
            if isinstance(cell, datetime)
            else cell
            for name, cell in one.items()
        }
        for one in rows
    ]


def psql_csv(rows: list[dict[str, Any]]) -> bytes:
    """`\\copy ... csv header`: what is null is empty, and an empty text has quotes."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_MINIMAL).writerows([COLUMNS, *(one.values() for one in json_cells(rows))])
    return text.getvalue().encode()


EXPORTS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "psql.csv": psql_csv,
    "pandas.csv": lambda rows: pd.DataFrame(json_cells(rows)).astype({"total_tokens": float}).to_csv().encode(),
    "rows.jsonl": lambda rows: as_lines(
        [{**one, **{name: one[name].isoformat() for name in ("startTime", "endTime")}} for one in rows]
    ),
    "texts.json": lambda rows: as_document(json_cells(rows)),
    "rows.parquet": lambda rows: as_parquet(
        [
            {
                **one,
                **{
                    name: json.dumps(one[name]) for name in ("metadata", "messages", "response", "proxy_server_request")
                },
            }
            for one in rows
        ]
    ),
    "semicolon.csv": lambda rows: as_csv(json_cells(rows), delimiter=";"),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_what_the_callback_sent_is_a_duplicate_in_an_export(
    name: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    sent = requests()
    report = ingest(
        postgres,
        EVENTS,
        [event_of(json.dumps(one).encode()) for one in sent],
        source="token:litellm",
        settings=settings,
        sender="litellm",
    )
    # LiteLLM writes a hit under the id of the request that filled the cache, or a try again under the same one.
    assert report.rejected == ()
    (tmp_path / name).write_bytes(EXPORTS[name]([row(one) for one in sent]))
    done = load(postgres, settings, tmp_path / name)
    assert (done.row_format, done.reason, done.rejections) == ("litellm-spend-logs", None, [])
    assert (done.inserted, done.duplicates, done.conflicts) == (0, len(sent) - report.conflicts, report.conflicts)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_alone_has_the_tokens_and_the_spend_of_its_rows(
    name: str, tmp_path: Path, postgres: psycopg.Connection, settings: Settings
) -> None:
    rows = [row(one) for one in requests()]
    (tmp_path / name).write_bytes(EXPORTS[name](rows))
    done = load(postgres, settings, tmp_path / name)
    # A try again is under the same id, and each one that failed counts.
    told_apart = {(one["request_id"], one["status"] == "failure" and one["startTime"]) for one in rows}
    assert (done.inserted, done.rejections) == (len(told_apart), [])
    [(entered, left, cost)] = postgres.execute(
        "select sum(input_tokens)::int, sum(output_tokens)::int, sum(cost_usd)::float from analytics.usage_events"
    ).fetchall()
    assert entered == sum(one["prompt_tokens"] for one in rows)
    assert left == sum(one["completion_tokens"] for one in rows)
    assert cost == pytest.approx(sum(one["spend"] or 0 for one in rows))
    assert load(postgres, settings, tmp_path / name).inserted == 0


def test_a_row_that_cannot_be_read_is_told_with_its_line_and_kept_as_it_came(
    tmp_path: Path, postgres: psycopg.Connection, settings: Settings, run: Run
) -> None:
    good, bad = (row(one) for one in requests()[:2])
    (tmp_path / "a.csv").write_bytes(as_csv(json_cells([good, {**bad, "metadata": "{"}])))
    report = ingest_file(postgres, Landing(str(tmp_path)), "a.csv", settings=settings)
    assert (report.inserted, report.rejected) == (1, 1)
    [(position, reason, raw)] = postgres.execute("select position, reason, raw from ops.dead_letters").fetchall()
    assert position == 3
    assert reason.startswith("metadata: expected JSON")
    assert json.loads(raw)["request_id"] == bad["request_id"]

    # The way back that `docs/files.md` names.
    assert run("dead-letters", "replay").returncode == 1, "it is no event, however often it is tried"
    out = tmp_path / "out.jsonl"
    assert run("dead-letters", "export", str(out)).returncode == 0
    mended = {**json.loads(out.read_bytes()), "metadata": bad["metadata"]}
    out.write_bytes(json.dumps(mended).encode())
    done = json.loads(run("load", "events", str(out), "--json").stdout)["files"][0]
    assert (done["format"], done["stored"]) == ("litellm-spend-logs", 1)

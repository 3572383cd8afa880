"""The audit log: who was refused what, from where, without any secret, and never more than its bounds."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from starlette.requests import Request

from usage_pipeline.access import audit
from usage_pipeline.access.audit import LINES, LINES_OF_A_KIND, WINDOW_SECONDS, AuditLog
from usage_pipeline.access.tokens import create_token, prefix_of, revoke_token
from usage_pipeline.api.audit import Presented, note_refusal
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.service import EVENTS_PATH, serving

READ_PATH = "/api/usage/api-keys/one"


def request_of(address: str, presented: Presented | None = None) -> Request:
    state = {} if presented is None else {"presented": presented}
    return Request({"type": "http", "method": "GET", "headers": [], "client": (address, 1), "state": state})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_refusal_is_a_line_with_address_token_route_status_and_reason(
    database_url: str, redis_url: str, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    settings = load_settings(database_url=database_url, redis_url=redis_url, audit_log=str(path))
    names = ("reader", "expired", "revoked", "spent")
    made = {name: create_token(postgres, name, ["read"], quota=1 if name == "spent" else None) for name in names}
    revoke_token(postgres, made["revoked"].token_prefix)
    postgres.execute("update usage.api_access_tokens set expires_at = now() where name = 'expired'")
    wrong = made["reader"].token[:-1] + ("A" if made["reader"].token[-1] != "A" else "B")
    before = datetime.now(UTC)
    with serving(settings) as service:

        def get(token: str | None, path: str = READ_PATH) -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return service.client.get(path, params={"id": "x"}, headers=headers).status_code

        assert get(None) == 401
        assert get("hunter2") == 401
        assert get(wrong) == 401
        assert get(made["expired"].token) == 401
        assert get(made["revoked"].token) == 401
        assert get(made["reader"].token) == 404  # served: no line
        assert [get(made["spent"].token) for _ in range(2)] == [404, 429]
        headers = {"Authorization": f"Bearer {made['reader'].token}"}
        assert service.client.post(EVENTS_PATH, json=[], headers=headers).status_code == 403
    lines = lines_of(path)
    assert {tuple(line) for line in lines} == {("time", "address", "token_id", "route", "status", "reason")}
    read, ingest = "GET /api/usage/api-keys/one", f"POST {EVENTS_PATH}"
    assert [(line["token_id"], line["route"], line["status"]) for line in lines] == [
        (None, read, 401),
        (None, read, 401),
        (made["reader"].token_id, read, 401),
        (made["expired"].token_id, read, 401),
        (made["revoked"].token_id, read, 401),
        (made["spent"].token_id, read, 429),
        (made["reader"].token_id, ingest, 403),
    ]
    reasons = [line["reason"] for line in lines]
    assert reasons[1:5] == ["unknown token", "not the secret of this token", "expired token", "revoked token"]
    assert "at most 1 request a day" in reasons[5]
    assert "scope ingest" in reasons[6]
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert all(before <= datetime.fromisoformat(line["time"]) <= datetime.now(UTC) for line in lines)
    text = path.read_text()
    for secret in (wrong, "hunter2", *(one.token for one in made.values()), *(one.token[17:] for one in made.values())):
        assert secret not in text
    assert path.stat().st_mode & 0o077 == 0
    assert prefix_of(wrong)


def test_a_503_is_a_line_too(redis_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(
        database_url="postgresql://u:hunter2@127.0.0.1:1/x", redis_url=redis_url, connect_timeout_seconds=0.2
    )
    with serving(settings) as service:
        token = f"upt_{'0' * 12}_{'A' * 43}"
        answer = service.client.get(READ_PATH, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 503
    errors = capfd.readouterr().err
    [line] = [json.loads(line) for line in errors.splitlines() if line.startswith('{"time"')]
    assert (line["status"], line["token_id"]) == (503, None)
    assert "A" * 43 not in errors
    assert "hunter2" not in errors


async def test_one_address_that_is_refused_without_end_writes_a_few_lines_and_hides_nobody() -> None:
    written: list[str] = []
    now = [1_000.0]
    log = AuditLog(written.append, clock=lambda: now[0])
    for number in range(20_000):
        note_refusal(log, request_of("192.0.2.1", Presented(None)), 401, "unknown")
        note_refusal(log, request_of(f"10.0.{number // 256 % 256}.{number % 256}"), 401, "unknown")
    note_refusal(log, request_of("192.0.2.7", Presented("token-1", is_proven=True)), 403, "scope")
    lines = [json.loads(line) for line in written]
    assert len(lines) == LINES + 1
    assert [line["address"] for line in lines].count("192.0.2.1") == LINES_OF_A_KIND
    assert lines[-1]["token_id"] == "token-1"
    assert len(log._kinds) <= 2 * LINES + 1
    now[0] += WINDOW_SECONDS
    note_refusal(log, request_of("192.0.2.1"), 401, "unknown")
    left_out, again = (json.loads(line) for line in written[-2:])
    assert left_out["left_out"] == {"with_a_token": 0, "others": 40_000 - LINES}
    assert again["address"] == "192.0.2.1"


async def test_texts_are_short_and_hold_no_control_character() -> None:
    written: list[str] = []
    log = AuditLog(written.append)
    note_refusal(log, request_of("\x1b[2J evil"), 401, "\x1b]0;owned\x07\r\n" + "é" * 10_000)
    note_refusal(log, request_of("192.0.2.1"), 404, "not of our matter")
    [line] = written
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.isascii()
    assert len(line) < 3_000
    assert json.loads(line)["address"] is None


def test_a_file_of_several_processes_is_renamed_when_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, most_bytes = tmp_path / "audit.jsonl", 4_000
    monkeypatch.setattr(audit, "MOST_FILE_BYTES", most_bytes)

    def write_many(name: str) -> None:
        write = audit._File(str(path)).write  # with a descriptor of its own, as another process has
        for number in range(400):
            write(json.dumps({"name": name, "number": number}) + "\n")

    with ThreadPoolExecutor(3) as writers:
        list(writers.map(write_many, "abc"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["audit.jsonl", "audit.jsonl.1"]
    for file in tmp_path.iterdir():
        # While the one that renames it is held up, the others write on. In all they write eight times as much.
        assert file.stat().st_size < 4 * most_bytes
        assert all(set(line) == {"name", "number"} for line in lines_of(file))


def test_a_file_that_cannot_be_written_is_said_once_and_its_lines_are_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write = audit._File(str(tmp_path / "missing" / "audit.jsonl")).write
    write('{"a": 1}\n')
    write('{"a": 2}\n')
    assert capsys.readouterr().err == '{"a": 1}\n{"a": 2}\n'
    assert [record.message for record in caplog.records] == [
        "AUDIT_LOG cannot be written, its lines go to standard error: No such file or directory"
    ]

"""The real LiteLLM and its own generic API callback against the real service, also when answers get lost and it sends again."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.service import LITELLM_PATH, new_token, serving

ROOT = Path(__file__).parents[3]
CALLS = ROOT / "usage_pipeline_tests" / "events" / "formats" / "litellm_calls.py"
UV = ROOT / ".local" / "uv" / "bin" / "uv"
# LiteLLM has 300 MB with what its cache needs: too much for the environment of the project. uv keeps it in its own cache.
LITELLM = [str(UV), "run", "--no-project", "--quiet"]
PACKAGES = ("litellm==1.110.2", "fastapi", "orjson", "soundfile")


@pytest.fixture(scope="module")
def litellm() -> list[str]:
    """The command that runs Python with LiteLLM."""
    command = [*LITELLM, *(part for package in PACKAGES for part in ("--with", package)), "python"]
    if not UV.exists():
        pytest.skip(f"{UV} is not there: `make setup` puts it there")
    try:
        subprocess.run([*command, "--version"], check=True, capture_output=True, timeout=300, cwd=CALLS.parent)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace")[-300:]
        pytest.skip(f"LiteLLM cannot be had from the package index: {said}")
    return command


@contextmanager
def unreliable(port: int) -> Iterator[tuple[str, list[str]]]:
    """A way to the service that loses its first answers: one becomes a 503, one is cut off. It gives its address, and a log."""
    log: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
            answer = httpx.post(f"http://127.0.0.1:{port}{self.path}", content=body, headers=headers, trust_env=False)
            log.append(answer.text)
            if len(log) == 2:
                self.close_connection = True
                return
            # What was stored, and not what is said, decides whether it counts once.
            self.send_response(503 if len(log) == 1 else answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{LITELLM_PATH}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_every_request_of_litellm_counts_once_with_its_tokens_and_its_cost(
    litellm: list[str], settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    logged = tmp_path / "logged.json"
    with serving(settings) as service, unreliable(service.port) as (url, log):
        run = subprocess.run(
            [*litellm, str(CALLS), url, new_token(postgres), "json_array", str(logged)],
            capture_output=True,
            timeout=300,
            cwd=tmp_path,
            # No network beyond loopback: its own price list, and none of its proxies.
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"},
        )
    assert run.returncode == 0, run.stderr.decode()[-3_000:]
    assert len(log) == 3, "it was sent three times"
    payloads: list[dict[str, Any]] = [one for group in json.loads(logged.read_text()).values() for one in group]
    first, _, last = map(json.loads, log)
    assert (first["inserted"], first["rejected"], first["conflicts"]) == (len(payloads), [], 0), first
    assert (last["duplicates"], last["inserted"]) == (len(payloads), 0)
    with postgres.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        rows = cursor.execute(
            "select *, coalesce(external_id, event_id::text) as id from analytics.usage_events"
        ).fetchall()
    assert len(rows) == len(payloads)
    by_time = {row["event_time"].timestamp(): row for row in rows}
    for payload in payloads:
        row = by_time[min(by_time, key=lambda at: abs(at - payload["startTime"]))]
        assert row["id"].startswith(payload["id"]), "the id is LiteLLM's"
        assert row["model"] == payload["model"]
        assert (row["input_tokens"] or 0, row["output_tokens"] or 0) == (
            payload["prompt_tokens"],
            payload["completion_tokens"],
        )
        assert Decimal(str(payload["response_cost"])) == (row["cost_usd"] or 0)
        assert (row["error_type"] is not None) == (payload["status"] == "failure")
        details = (payload["metadata"]["usage_object"] or {}).get("prompt_tokens_details") or {}
        assert (row["cache_read_tokens"] or 0) == (details.get("cached_tokens") or 0)
        assert row["prompt"] is None
    reported = sum(row["cost_usd"] or 0 for row in rows)
    assert reported == sum(Decimal(str(payload["response_cost"])) for payload in payloads) > 0
    [hit] = [row for row in rows if (row["tags"] or {}).get("cache_hit")]
    assert hit["cost_usd"] == 0

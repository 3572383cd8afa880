"""The real LiteLLM and its own callback against the real service, which is killed in mid-batch and whose answers get lost."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.settings import Settings
from usage_pipeline_tests.api.ingest.service_process import ServiceProcess
from usage_pipeline_tests.rigs.service import LITELLM_PATH, new_token, serving
from usage_pipeline_tests.rigs.waiting import wait_until

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


class KilledInMidBatch:
    """A way to the service, which is killed while it stores the first batch, when some portions of it are committed.

    The second answer is cut off. `answers` are those that the service gave.
    """

    def __init__(self, service: ServiceProcess, postgres: psycopg.Connection) -> None:
        self._service = service
        self._postgres = postgres
        self._requests = 0
        self.answers: list[dict[str, Any]] = []
        self.stored_before_the_kill = 0

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Until the end of the block; the address of its route."""
        way = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
                status, content = way.passed_on(self.path, body, headers)
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{LITELLM_PATH}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)

    def passed_on(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and content of the answer to the caller; the status is 0 when there is none."""
        self._requests += 1

        def post() -> httpx.Response:
            return httpx.post(f"{self._service.url}{path}", content=body, headers=headers, trust_env=False, timeout=60)

        if self._requests == 1:
            with ThreadPoolExecutor(1) as threads:
                self._kill_while(threads.submit(post))
            return 503, b"{}"
        answer = post()
        self.answers.append(answer.json())
        return (0, b"") if self._requests == 2 else (answer.status_code, answer.content)

    def _kill_while(self, posted: "Future[httpx.Response]") -> None:
        """The third portion waits for a lock; then the service is killed, and another one is started."""
        self._postgres.execute(_WAIT_WITH_THE_THIRD)
        self._postgres.execute("select pg_advisory_lock(42)")
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and not granted"
        wait_until(lambda: _number(self._postgres, waiting), "the third portion waits")
        self._service.kill()
        with pytest.raises(httpx.TransportError):
            posted.result(60)
        self._postgres.execute("select pg_advisory_unlock(42)")
        wait_until(lambda: not _number(self._postgres, waiting), "its transaction has ended")
        self._postgres.execute("drop function wait_with_the_third cascade")
        self.stored_before_the_kill = _number(self._postgres, "select count(*) from analytics.usage_events")
        self._service.start()
        self._service.wait_until_it_answers()


_WAIT_WITH_THE_THIRD = """
create function wait_with_the_third() returns trigger language plpgsql as $$
begin
    if (select count(*) from ops.ingest_batches) >= 2 then
        perform pg_advisory_xact_lock(42);
    end if;
    return new;
end $$;
create trigger wait before insert on ops.ingest_batches for each row execute function wait_with_the_third();
"""


def _number(postgres: psycopg.Connection, query: str) -> int:
    [[number]] = postgres.execute(query).fetchall()
    return int(number)


def test_every_request_of_litellm_counts_once_with_its_tokens_and_its_cost(
    litellm: list[str], settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    logged = tmp_path / "logged.json"
    token = new_token(postgres)
    service = ServiceProcess(settings, tmp_path / "api.log", MAX_BULK_SIZE="5")
    try:
        service.wait_until_it_answers()
        way = KilledInMidBatch(service, postgres)
        with way.serving() as url:
            run = subprocess.run(
                [*litellm, str(CALLS), url, token, "json_array", str(logged)],
                capture_output=True,
                timeout=300,
                cwd=tmp_path,
                # No network beyond loopback: its own price list, and none of its proxies.
                env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"},
            )
    finally:
        service.stop()
    assert run.returncode == 0, run.stderr.decode()[-3_000:]
    payloads: list[dict[str, Any]] = [one for group in json.loads(logged.read_text()).values() for one in group]
    assert way.stored_before_the_kill == 10, "two portions are committed, the third is not"
    second, last = way.answers
    assert (second["duplicates"], second["inserted"]) == (10, len(payloads) - 10), second
    assert (second["rejected"], second["conflicts"]) == ([], 0), second
    assert (last["duplicates"], last["inserted"]) == (len(payloads), 0), last
    with postgres.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        rows = cursor.execute(
            "select *, coalesce(external_id, event_id::text) as id from analytics.usage_events"
        ).fetchall()
    assert len(rows) == len(payloads)
    by_time = {row["event_time"].timestamp(): row for row in rows}
    for payload in payloads:
        row = by_time[min(by_time, key=lambda at: abs(at - payload["startTime"]))]
        assert row["id"].startswith(payload["id"].partition("_cache_hit")[0]), "the id is LiteLLM's"
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


def test_the_program_of_the_page_is_stored(
    litellm: list[str], settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "litellm.md").read_text("utf-8"), re.DOTALL)
    # The model answers by itself, as LiteLLM has it for tests.
    program = program.replace('model="gpt-4o",', 'model="gpt-4o", mock_response="A book.",')
    with serving(settings) as service:
        run = subprocess.run(
            [*litellm, "-c", program],
            capture_output=True,
            timeout=300,
            cwd=tmp_path,
            env={
                **os.environ,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "NO_PROXY": "127.0.0.1",
                "USAGE_PIPELINE_URL": f"http://127.0.0.1:{service.port}{LITELLM_PATH}",
                "USAGE_PIPELINE_AUTHORIZATION": f"Bearer {new_token(postgres)}",
            },
        )
    assert run.returncode == 0, run.stderr.decode()[-3_000:]
    rows = postgres.execute("select team, service, user_id, model, tags ->> 'project' from analytics.usage_events")
    assert rows.fetchall() == [("search", "chat", "user-1", "gpt-4o", "apollo")]

"""`docs/openai-sdk.md`: its commands and its code, with the real SDK of OpenAI and real instrumentations of it."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.settings import Settings
from usage_pipeline_tests.api.ingest.openai_server import EMBEDDING_MODEL, MODEL, UNKNOWN_MODEL, openai_server
from usage_pipeline_tests.rigs.service import new_token, serving

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "openai-sdk.md").read_text(encoding="utf-8")
UV = ROOT / ".local" / "uv" / "bin" / "uv"
SENDER, PROGRAM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
_, WITHOUT_CODE, _ = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
# Versions of the day on which the page was tried.
VERSIONS = {
    "openai": "3.57.0",
    "openinference-instrumentation-openai": "0.1.66",
    "opentelemetry-distro": "0.66b2",
    "opentelemetry-exporter-otlp-proto-http": "1.45.2",
}
# Of each request that the program makes: model, input, cached, output and thought tokens, error.
CHAT = (MODEL, 1_000, 800, 50, 20, None)
RESPONSE = (MODEL, 300, 100, 40, 10, None)
EMBEDDING = (EMBEDDING_MODEL, 7, None, None, None, None)
FAILURE = (UNKNOWN_MODEL, None, None, None, None, "RateLimitError")


@pytest.fixture(scope="module")
def python() -> list[str]:
    """The command that runs a program with the packages of the page."""
    installed = re.search(r"pip install (.*)", WITHOUT_CODE)
    assert installed is not None
    assert set(installed[1].split()) == set(VERSIONS), "the test has what the page installs"
    packages = [part for name, version in VERSIONS.items() for part in ("--with", f"{name}=={version}")]
    command = [str(UV), "run", "--no-project", "--quiet", *packages]
    if not UV.exists():
        pytest.skip(f"{UV} is not there: `make setup` puts it there")
    try:
        subprocess.run([*command, "python", "--version"], check=True, capture_output=True, timeout=300, cwd="/")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace")[-300:]
        pytest.skip(f"the packages cannot be had from the package index: {said}")
    return command


def run(
    command: Sequence[str], settings: Settings, postgres: psycopg.Connection, folder: Path, sender: str = SENDER
) -> list[dict[str, Any]]:
    """What is stored after a program ran in that folder, by the order of its requests."""
    (folder / "usage.py").write_text(sender, encoding="utf-8")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    with serving(settings) as service, openai_server() as openai_url:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            timeout=120,
            env={
                # uv asks its package index as the tests do.
                **os.environ,
                "NO_PROXY": "127.0.0.1",
                "OPENAI_BASE_URL": openai_url,
                "OPENAI_API_KEY": "none",
                "USAGE_URL": f"http://127.0.0.1:{service.port}",
                "USAGE_TOKEN": new_token(postgres),
            },
        )
    assert done.returncode == 0, done.stderr.decode()[-3_000:]
    with postgres.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute("select * from analytics.usage_events order by event_time, created_at").fetchall()


def counts(row: dict[str, Any]) -> tuple[Any, ...]:
    names = (
        "model",
        "input_tokens",
        "cache_read_tokens",
        "output_tokens",
        "output_reasoning_tokens",
        "error_type",
    )
    return tuple(row[name] for name in names)


def test_two_lines_a_call_count_what_openai_answers(
    python: list[str], settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    rows = run([*python, "python", "program.py"], settings, postgres, tmp_path)
    assert [counts(row) for row in rows] == [CHAT, CHAT, RESPONSE, EMBEDDING, FAILURE]
    assert {(row["user_id"], row["team"], row["service"], row["provider"]) for row in rows} == {
        ("u-1", "search", "assistant", "openai")
    }
    assert [row["external_id"] for row in rows[:3]] == ["chatcmpl-1", "chatcmpl-2", "resp_3"]
    assert rows[0]["latency_ms"] is not None
    # The SDK itself tries a failed request twice more; the program sees one.
    assert rows[4]["status_code"] == 429


def test_the_instrumentation_counts_the_same_without_new_code(
    python: list[str], settings: Settings, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    script = re.sub(r"pip install .*\n", "", WITHOUT_CODE)
    script = script.replace("opentelemetry-instrument", f"{' '.join(python)} opentelemetry-instrument")
    rows = run(["sh", "-ec", script], settings, postgres, tmp_path, sender="def count(*_, **__): ...\nfailed = count\n")
    assert [counts(row) for row in rows[:4]] == [CHAT, CHAT, RESPONSE, EMBEDDING]
    # It tells no model of a failed request, and the whole name of its exception.
    assert [counts(row) for row in rows[4:]] == [("unknown", *FAILURE[1:-1], "openai.RateLimitError")]
    assert {(row["team"], row["service"], row["provider"], row["source"]) for row in rows} == {
        ("search", "assistant", "openai", "otlp")
    }
    assert {row["prompt"] for row in rows} == {None}


def test_what_is_wrong_for_good_is_told_and_not_tried_again(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "usage.py").write_text(SENDER, encoding="utf-8")
    with serving(settings) as service:
        done = subprocess.run(
            [sys.executable, "-c", "import usage; usage.failed(OSError(), model='m', user='u', team='t', service='s')"],
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            env={"USAGE_URL": f"http://127.0.0.1:{service.port}", "USAGE_TOKEN": "upt_wrong"},
        )
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode()
    assert said.startswith("usage: 1 events are lost: {")
    assert "expected a valid token" in said
    assert "tried again" not in said

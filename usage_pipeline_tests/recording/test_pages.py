"""docs/write-counters.md: its commands, its numbers and its answers are those of the script."""

import os
import re
import shlex
import shutil
import subprocess
from datetime import date
from pathlib import Path

import psycopg
import pytest
import redis
from usage_recorder.commands import Moment, api_key, event, merchant, provider, token
from usage_recorder.delivery.sends import new_send
from usage_recorder.script import RECORD

from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline_tests.rigs.places import DOCS, PROJECT
from usage_pipeline_tests.torture.servers import RedisServer

PAGE = (DOCS / "write-counters.md").read_text(encoding="utf-8")


def test_the_command_of_redis_cli_counts_once(tmp_path: Path) -> None:
    # The wheel of Redis brings it, that of Valkey does not.
    cli = shutil.which("redis-cli", path=f"{redis_executable().parent}{os.pathsep}{os.environ['PATH']}")
    if cli is None:
        pytest.skip("redis-cli is not installed")
    [command] = re.findall(r"^redis-cli (.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "record.lua").write_text(RECORD, encoding="utf-8")
    server = RedisServer(tmp_path / "redis")
    server.start()
    url = f"redis://127.0.0.1:{server.port}"
    words = shlex.split(command.replace("\\\n", " ").replace("$REDIS_URL", url))
    try:
        answers = [
            subprocess.run([cli, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
            for _ in range(2)
        ]
        assert answers == ["", "1"]
        with server.client() as client:
            assert client.get("usage:merchant-1:2026-03-01:orders") == b"5"
            assert client.ttl("usage:merchant-1:2026-03-01:orders") > 0
    finally:
        server.stop()


def test_the_commands_of_each_record_are_those_of_the_page(redis_client: redis.Redis) -> None:
    [block] = re.findall(r"^```\n(HINCRBY.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    at = Moment(1_772_366_400_250, date(2026, 3, 1))
    records = [
        api_key(at, "ID", success=True, requests=1, failed=None, file_size=0, files_uploaded=0),
        provider(at, "ID", "s3", user_id="user-1", uploads=1, file_size=2048),
        token(at, "ID", "api-0:8080", count=1),
        merchant(at, "ID", "orders", value=5),
        event(
            at,
            "123e4567-e89b-12d3-a456-426614174000",
            "ID",
            now_ms=at.ms,
            user_id="user-1",
            provider="s3",
            event_type="upload",
            file_size=2048,
            success=True,
        ),
    ]
    paragraphs = block.replace("DAY", "2026-03-01").strip().split("\n\n")
    ours = [[" ".join(map(str, command)) for command in record.commands().with_odometer()] for record in records]
    assert [[" ".join(line.split()) for line in one.splitlines()] for one in paragraphs] == ours
    for number, record in enumerate(records, 1):
        [part] = new_send(record.commands(), "r", 0, number, began_ms=0, is_cluster=False).parts
        assert [redis_client.eval(RECORD, *part.words) for _ in range(2)] == [[], 1]


def test_the_readme_names_tables_and_views_that_are_there(postgres: psycopg.Connection) -> None:
    readme = (PROJECT / "clients" / "python" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:usage|raw|reporting)\.\w+)`", readme))
    assert len(named) == 10
    assert {name for name in named if postgres.execute("select to_regclass(%s)", [name]).fetchone() == (None,)} == set()

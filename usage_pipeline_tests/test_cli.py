"""The commands as a person or a script calls them: their output, their exit status, their one-line errors."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis
import typer.main

from usage_pipeline.cli import app
from usage_pipeline.commands.options import UsageError, expect_texts
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import sql_folder
from usage_pipeline_tests.rigs.clock import days_ago, today
from usage_pipeline_tests.rigs.commands import Run, command_environment
from usage_pipeline_tests.rigs.waiting import wait_until


def test_drain_prints_a_table_or_one_json_document(run: Run, redis_client: redis.Redis) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", 3)
    done = run("drain", "--once")
    assert done.returncode == 0, done.stderr
    assert "api_key" in done.stdout
    again = run("drain", "--json")
    assert again.returncode == 0
    document = json.loads(again.stdout)
    assert document["success"]
    assert sum(family["keys"] for family in document["families"]) == 0


def test_a_drain_that_met_malformed_input_ends_with_1(run: Run, redis_client: redis.Redis) -> None:
    redis_client.hset("apikey:a:metrics", "total_requests", "many")
    done = run("drain", "--json")
    assert done.returncode == 1
    listed = json.loads(run("dead-letters", "list", "--json").stdout)["dead_letters"]
    assert [letter["source_key"] for letter in listed] == ["apikey:a:metrics"]
    replayed = run("dead-letters", "replay", "--json")
    assert replayed.returncode == 1
    assert "expected an integer" in json.loads(replayed.stdout)["refused"][0]["reason"]
    assert "[bold]" not in run("dead-letters", "list").stdout


def test_watch_drains_until_it_is_told_to_stop(
    settings: Settings, redis_client: redis.Redis, postgres: psycopg.Connection
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", "from usage_pipeline.cli import main; main()", "drain", "--watch"],
        env=command_environment(settings) | {"METRICS_SYNC_INTERVAL_MS": "100"},
    )
    try:
        for number in (1, 2):
            redis_client.hset(f"apikey:{number}:metrics", "total_requests", number)
            query = "select 1 from usage.api_keys where api_key_id = %s"
            wait_until(
                lambda query=query, number=number: postgres.execute(query, (str(number),)).fetchone(),
                f"counter {number} is stored",
                30,
            )
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
    assert redis_client.keys("usage_pipeline:claim:*") == []
    assert postgres.execute("select count(*) from ops.sync_batches where released_at is null").fetchone() == (0,)


def test_aggregate_answers_as_the_contract_says(run: Run, redis_client: redis.Redis) -> None:
    redis_client.incrby(f"usage:m:{days_ago(1)}:orders", 7)
    redis_client.incrby(f"usage:n:{today()}:orders", 8)
    document = json.loads(run("aggregate", "--json").stdout)
    assert {name: document[name] for name in ("success", "date", "keys_found", "records_aggregated", "errors")} == {
        "success": True,
        "date": days_ago(1).isoformat(),
        "keys_found": 1,
        "records_aggregated": 1,
        "errors": [],
    }
    span = json.loads(run("aggregate", "--from", str(days_ago(1)), "--to", str(today()), "--json").stdout)
    assert [day["keys_found"] for day in span["days"]] == [1, 1]
    alone = json.loads(run("aggregate", "--date", str(today()), "--merchant", "m", "--json").stdout)
    assert alone["keys_found"] == 0
    redis_client.set(f"usage:n:{today()}:returns", "some")
    failed = run("aggregate", "--date", str(today()))
    assert failed.returncode == 1
    assert "returns" in failed.stderr


def test_status_and_accept_reset(run: Run, redis_client: redis.Redis) -> None:
    key = f"usage:m:{today()}:orders"
    redis_client.incrby(key, 7)
    assert json.loads(run("merchants", "status", "--json").stdout)["missing_count"] == 1
    run("aggregate", "--date", str(today()))
    shown = run("status", str(today())).stdout
    assert "last aggregated" in shown
    assert "0 counters whose stored value is too low or missing" in shown
    redis_client.set(key, 2)
    assert run("aggregate", "--date", str(today())).returncode == 1
    [reset] = json.loads(run("counters", "accept-reset", "--json").stdout)["resets"]
    assert (reset["stored_before"], reset["stored_after"]) == (7, 9)
    assert run("aggregate", "--date", str(today())).returncode == 0


def test_migrate_says_the_version(run: Run) -> None:
    newest = max(path.name.partition("_")[0] for path in (sql_folder() / "migrations" / "versions").glob("*.py"))
    assert json.loads(run("migrate", "--json").stdout) == {"success": True, "version": newest}


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["aggregate", "--date", "yesterday"], {}, "--date: expected a date YYYY-MM-DD, came 'yesterday'"),
        (["aggregate", "--from", "2026-01-02"], {}, "--from and --to together"),
        (
            ["aggregate", "--from", "2026-01-02", "--to", "2026-01-01"],
            {},
            "--to: expected a date from 2026-01-02 to today",
        ),
        (["aggregate", "--merchant", ""], {}, "--merchant: expected a value, came an empty text"),
        (["aggregate", "--date", ""], {}, "--date: expected a value, came an empty text"),
        (["aggregate", "--date", "2999-01-01"], {}, "--date: expected a date up to today"),
        (["aggregate", "--date", "20260101"], {}, "--date: expected a date YYYY-MM-DD, came '20260101'"),
        (
            ["aggregate", "--from", "1926-01-01", "--to", "2026-01-01"],
            {},
            "--to: expected at most 3660 days, came 36526",
        ),
        (["counters", "accept-reset", "--date", ""], {}, "--date: expected a value, came an empty text"),
        (["counters", "accept-reset", "--date="], {}, "--date: expected a value, came an empty text"),
        (["counters", "accept-correction", "--reason", ""], {}, "--reason: expected a value, came an empty text"),
        (["stats", "--date", ""], {}, "--date: expected a value, came an empty text"),
        (
            ["status", b"a\xff".decode(errors="surrogateescape")],
            {},
            "argument 2: expected text in UTF-8, came 'a\\udcff'",
        ),
        (["status", ""], {}, "argument 2: expected a value, came an empty text"),
        (["dead-letters", "replay", "4242"], {}, "no dead letter has the number 4242"),
        (["dead-letters", "replay", "--family", "nope"], {}, "--family: expected one of api_key, "),
        (["dead-letters", "list", "--family", "nope"], {}, "--family: expected one of api_key, "),
        (["drain"], {"REDIS_HOST": "h:6380", "REDIS_URL": ""}, "REDIS_HOST: "),
        (["drain", "--once", "--watch"], {}, "expected --once or --watch"),
        (["drain"], {"METRICS_SYNC_INTERVAL_MS": "soon"}, "METRICS_SYNC_INTERVAL_MS: "),
        (["drain"], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, "nothing is claimed"),
        (["drain"], {"REDIS_URL": "redis://:hunter2@127.0.0.1:1"}, "Redis does not answer"),
        (["drain"], {"REDIS_URL": "redis://127.0.0.1?nonsense=3"}, "REDIS_URL: expected parameters that"),
        (["migrate"], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, "PostgreSQL does not answer"),
        (["demo", "--trace", "no-such-file.csv"], {}, "--trace: expected a file"),
    ],
)
def test_what_the_caller_must_mend_is_one_line_and_status_2(
    run: Run, arguments: list[str], variables: dict[str, str], expected: str
) -> None:
    done = run(*arguments, **variables)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert expected in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("unset", "said"),
    [
        (["DATABASE_URL", "REDIS_URL"], "DATABASE_URL and REDIS_URL are not set"),
        (["DATABASE_URL"], "DATABASE_URL is not set"),
        ([], None),
    ],
)
def test_who_forgot_the_line_that_dev_prints_is_told_of_it(
    settings: Settings, unset: list[str], said: str | None
) -> None:
    environment = command_environment(settings) | {"DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}
    for name in unset:
        del environment[name]
    # The server of the default may run on this machine: nobody listens at port 1.
    code = "from usage_pipeline import settings; from usage_pipeline.cli import main; from pydantic import SecretStr\n"
    code += "settings.Settings.model_fields['database_url'].default = SecretStr('postgresql://u@127.0.0.1:1/x')\n"
    code += "settings.Settings.model_rebuild(force=True); main()"
    command = [sys.executable, "-c", code, "tokens", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert ("paste the line that it prints into this terminal first" in line) == (said is not None)
    assert said is None or said in line


def test_no_option_of_any_command_takes_an_empty_value() -> None:
    commands = [("usage-pipeline", typer.main.get_command(app))]
    refused = 0
    while commands:
        words, command = commands.pop()
        commands += [(f"{words} {name}", one) for name, one in getattr(command, "commands", {}).items()]
        for option in command.params:
            if option.nargs == 0 or getattr(option, "is_flag", False):
                continue
            name = option.opts[-1] if option.param_type_name == "option" else "argument"
            with pytest.raises(UsageError, match="expected a value, came an empty text"):
                expect_texts([*words.split()[1:], *([name] if name.startswith("-") else []), ""])
            if name.startswith("--"):
                with pytest.raises(UsageError, match=f"{name}: expected a value"):
                    expect_texts([*words.split()[1:], f"{name}="])
            refused += 1
    assert refused > 80


@pytest.mark.parametrize("wrong", ["folder", "missing/file", "file/inside"])
@pytest.mark.parametrize(
    "command",
    [
        ["demo", "--trace"],
        ["load", "issues"],
        ["prices", "import"],
        ["prices", "export"],
        ["events", "replace", "--reason", "r"],
        ["dead-letters", "export"],
    ],
    ids=" ".join,
)
def test_what_is_no_file_is_refused_in_one_line(run: Run, tmp_path: Path, command: list[str], wrong: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    done = run(*command, tmp_path / wrong)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert (str(tmp_path / wrong) in line, "expected a" in line) == (True, True)


@pytest.mark.parametrize("wrong", ["file", "file/inside", "place"])
def test_a_demo_whose_folder_is_none_is_refused_in_one_line(run: Run, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "redis").write_text("not a folder either")
    done = run("demo", "--folder", tmp_path / wrong)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"{tmp_path / wrong}: expected a folder for the data" in line
    assert ", came a file: " in line


def test_a_trace_that_is_not_one_is_refused_with_its_line(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\nnoon,1,2\n")
    done = run("demo", "--trace", str(trace), "--folder", str(tmp_path / "data"))
    assert done.returncode == 2
    assert "line 3: expected TIMESTAMP, ContextTokens, GeneratedTokens" in done.stderr

"""What commands list can be copied at 80 columns, and each command that ends by itself has --json."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import typer.main

from usage_pipeline.cli import app
from usage_pipeline_tests.commands.every_command import every_command
from usage_pipeline_tests.rigs.clock import today
from usage_pipeline_tests.rigs.commands import Run

EVENT = "0f0e1c2a-6f2b-4b7e-9d5c-3a1f5b8e7c11"
LONG = "a-name-of-an-api-key-as-long-as-some-are-0123456789-0123456789-0123456789"


def events(folder: Path, tokens: int) -> Path:
    file = folder / f"{tokens}.jsonl"
    file.write_text(
        json.dumps(
            {
                "event_id": EVENT,
                "event_time": f"{today()}T00:00:00Z",
                "user_id": "u",
                "team": "t",
                "service": "s",
                "provider": "p",
                "model": "m",
                "latency_ms": 1,
                "status_code": 200,
                "total_tokens": tokens,
            }
        )
    )
    return file


@pytest.fixture
def filled(run: Run, redis_client: redis.Redis, tmp_path: Path) -> Run:
    redis_client.hset(f"apikey:{LONG}:metrics", "total_requests", "many")
    run("drain")
    run("tokens", "create", "a token of the team that has the longest name of all", "--scope=read", "--expires=90d")
    for tokens in (1, 2, 3):
        run("load", "events", events(tmp_path, tokens))
    run("budgets", "set", "a-budget", "--scope=team=t", "--period=day", "--limit=5", "--unit=usd")
    return run


def texts(document: object, names: set[str]) -> Iterator[str]:
    if isinstance(document, dict):
        for name, value in document.items():
            if name in names and value is not None:
                yield str(value)
            yield from texts(value, names)
    elif isinstance(document, list):
        for one in document:
            yield from texts(one, names)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["tokens", "list"], {"token_id", "token_prefix"}),
        (["dead-letters", "list"], {"dead_letter_id", "source_key"}),
        (["conflicts", "list"], {"event_conflict_id", "event_id"}),
        (["budgets", "list"], {"name"}),
    ],
    ids=["tokens", "dead letters", "conflicts", "budgets"],
)
def test_ids_are_whole_at_80_columns(filled: Run, command: list[str], names: set[str]) -> None:
    ids = set(texts(json.loads(filled(*command, "--json").stdout), names))
    assert len(ids) >= len(names)
    shown = filled(*command, COLUMNS="80").stdout
    assert [one for one in ids if one not in shown] == []


def test_a_list_says_when_it_is_not_the_whole(filled: Run, redis_client: redis.Redis) -> None:
    redis_client.hset("apikey:b:metrics", "total_requests", "many")
    filled("drain")
    for command in ("dead-letters", "conflicts"):
        assert json.loads(filled(command, "list", "--limit=1", "--json").stdout)["has_more"] is True
        assert filled(command, "list", "--limit=1").stdout.startswith("The first 1 ")
        assert json.loads(filled(command, "list", "--limit=2", "--json").stdout)["has_more"] is False


def test_each_command_that_ends_by_itself_has_json() -> None:
    without = []
    for one in every_command():
        command = typer.main.get_command(app)
        for word in one.words:
            command = command.commands[word]  # type: ignore[attr-defined]  # it is a group
        if not any("--json" in parameter.opts for parameter in command.params):
            without.append(str(one))
    assert without == ["api", "dev"], "they run until they are stopped"

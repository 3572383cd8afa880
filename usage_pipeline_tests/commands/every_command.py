"""Every command of `usage-pipeline`, found in it, and a call of one in this process, with a bound on its time."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import typer.main

from usage_pipeline.cli import app, main
from usage_pipeline_tests.rigs.clock import days_ago

SECONDS = 30
# What a command needs of a parameter before it looks at anything else, where a 1 does not do.
_NEEDED = {
    ("alerts", "snooze", "span"): "2h",
    ("", "", "first"): "2026-01-01",
    ("", "", "last"): "2026-01-01",
    ("budgets", "set", "scope"): "all",
    ("budgets", "set", "period"): "day",
    ("budgets", "set", "unit"): "usd",
    ("counters", "adjust", "family"): "api_key",
    ("counters", "adjust", "field"): "total_requests",
    ("counters", "adjust", "day"): str(days_ago(2)),
    ("events", "void", "ids"): "0f0e1c2a-6f2b-4b7e-9d5c-3a1f5b8e7c11",
    ("tokens", "create", "scope"): "read",
    ("archive", "restore", "day"): "2026-01-01",
    ("events", "replace", "file"): "events.jsonl",
    ("load", "events", "files"): "events.jsonl",
    ("load", "issues", "file"): "issues.csv",
    ("prices", "import", "file"): "prices.csv",
}
# The files that these name.
FILES = {
    "events.jsonl": '{"event_id": "0f0e1c2a-6f2b-4b7e-9d5c-3a1f5b8e7c11", "event_time": "2026-01-01T00:00:00Z", '
    '"user_id": "u", "team": "t", "service": "s", "provider": "p", "model": "m", "latency_ms": 1, "status_code": 200}\n',
    "issues.csv": "number,created_at,updated_at,closed_at,state,comments\n1,2026-01-01 00:00:00,2026-01-01 00:00:00,,open,0\n",
    "prices.csv": "provider,model,input_mtok,output_mtok\np,m,1,2\n",
}
# What a command needs beside its required parameters, so that it comes to its work.
_AND = {
    ("dead-letters", "discard"): ("1",),
    ("tokens", "create"): ("--never-expires",),
}


@dataclass(frozen=True, slots=True)
class Command:
    """Its words, a value for each parameter that it needs, and all parameters that take a value."""

    words: tuple[str, ...]
    needed: dict[str, str]
    parameters: tuple[Any, ...]

    def __str__(self) -> str:
        return " ".join(self.words)

    def call(self, parameter: Any = None, value: str = "") -> list[str]:
        """The whole command line, with this value for that parameter."""
        given = self.needed | ({} if parameter is None else {parameter.name: value})
        called = [*self.words]
        # Options first: after `--` a value that begins with a dash is no option.
        arguments = []
        for one in self.parameters:
            if one.name not in given:
                continue
            if one.param_type_name == "option":
                called.append(f"{one.opts[0]}={given[one.name]}")
            else:
                arguments.append(given[one.name])
        extra = [] if parameter is not None and parameter.param_type_name == "argument" else self.extra
        return [*called, *(one for one in extra if one.startswith("-")), "--", *arguments, *_values(extra)]

    @property
    def extra(self) -> list[str]:
        return list(_AND.get(self.words, ()))


def _values(extra: list[str]) -> list[str]:
    return [one for one in extra if not one.startswith("-")]


def every_command() -> list[Command]:
    return sorted(_leaves((), typer.main.get_command(app)), key=str)


def _leaves(words: tuple[str, ...], command: Any) -> Iterator[Command]:
    if subcommands := getattr(command, "commands", None):
        for name, one in subcommands.items():
            yield from _leaves((*words, name), one)
        return
    valued = tuple(one for one in command.params if not getattr(one, "is_flag", False) and one.name != "help")
    needed = {
        one.name: _NEEDED.get((*words[:2], one.name), _NEEDED.get(("", "", one.name), "1"))
        for one in valued
        if one.required
    }
    yield Command(words, needed, valued)


class _TooLong(BaseException):
    """Nothing that catches errors catches this."""


def called(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, output and errors of a command. It fails the test when it takes longer than SECONDS."""

    def give_up(*_: object) -> None:
        raise _TooLong(f"{arguments} took more than {SECONDS} s")

    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    capfd.readouterr()
    try:
        with patch.object(sys, "argv", ["usage-pipeline", *arguments]), pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
    output, errors = capfd.readouterr()
    status = ended.value.code
    return (status if isinstance(status, int) else 0), output, errors

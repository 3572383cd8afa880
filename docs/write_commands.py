"""Writes docs/commands.md, the page of all commands, from the help of `usage-pipeline` itself.

uv run python docs/write_commands.py
"""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

from typer.main import get_command

from usage_pipeline.cli import app

PAGE = Path(__file__).parent / "commands.md"
_GROUPS = {
    "This machine": ("dev", "demo", "migrate"),
    "How everything is": ("status", "alerts list", "alerts ack", "alerts snooze"),
    "Counters in Redis": (
        "drain",
        "aggregate",
        "merchants status",
        "counters accept-reset",
        "counters accept-restore",
        "counters accept-correction",
        "counters adjust",
        "dead-letters list",
        "dead-letters show",
        "dead-letters replay",
        "dead-letters discard",
        "dead-letters export",
    ),
    "The HTTP service": ("api", "invite", "tokens create", "tokens list", "tokens revoke"),
    "Budgets": ("budgets set", "budgets list", "budgets remove"),
    "Prices": ("prices import", "prices list", "prices show", "prices export", "recost"),
    "Usage events": (
        "load events",
        "events void",
        "events replace",
        "conflicts list",
        "conflicts accept",
        "conflicts dismiss",
        "rezone",
        "archive list",
        "archive restore",
        "erase-user",
    ),
    "Issues": ("load issues", "stats"),
    "The Dagster UI": ("ui-password",),
}
# What the help has no room for.
_NOTES = {
    "dev": "It prints the address of the UI, the address of the HTTP service, and a line for other terminals. Ctrl-C stops "
    "everything that it started, and nothing else.",
    "demo": "The data stay in `.local/`, and `usage-pipeline dev` opens them. `--trace` reads a CSV file with the columns "
    "`TIMESTAMP,ContextTokens,GeneratedTokens`, such as the public Azure LLM traces.",
    "migrate": "Run it before anything else on servers of your own, and after each upgrade.",
    "drain": "With `--watch` it works without Dagster. While it runs, the drain sensors only report to Dagster "
    "what it did. See [exactly-once.md](exactly-once.md).",
    "aggregate": "It only reads Redis. To do it twice changes nothing.",
    "status": "It takes less than a second. With `--json`, `parts` has each line as `state`, `said` and its numbers. "
    "`status DATE` is the older form of `merchants status DATE`, and goes on with a hint.",
    "merchants status": "It compares Redis with what is stored for that day.",
    "counters accept-reset": "Use it when the alert [counter-regression](alerts.md#counter-regression) is open and Redis "
    "really lost the counters. Status 1: some are left open, and the reason says why.",
    "counters accept-restore": "Use it when the alert [counter-regression](alerts.md#counter-regression) is open and Redis "
    "came back with another state of the counters. Status 1: some are left open, and the reason says why.",
    "counters accept-correction": "Use it when the alert [counter-regression](alerts.md#counter-regression) is open and "
    "somebody changed the counters on purpose. Status 1: some are left open, and the reason says why.",
    "counters adjust": "See [adjust counters](corrections.md#adjust-counters).",
    "events void": "See [corrections.md](corrections.md#take-events-out).",
    "events replace": "See [corrections.md](corrections.md#replace-events).",
    "conflicts list": "See [corrections.md](corrections.md#decide-about-conflicts).",
    "dead-letters list": "`show` has the value of one; with `--json` this has it, too. See [dead letters](dead-letters.md).",
    "dead-letters show": "It ends with the commands that fit, to be pasted. See [dead letters](dead-letters.md#look-first).",
    "dead-letters replay": "Correct what was wrong first. See [dead letters](dead-letters.md#replay).",
    "dead-letters discard": "See [dead letters](dead-letters.md#discard). Status 1: some count already.",
    "dead-letters export": "It ends with the command that closes what it wrote. See [dead "
    "letters](dead-letters.md#export-put-right-send-again).",
    "api": "See [http.md](http.md).",
    "invite": "The link is the only line on standard output. See [signing in](http.md#signing-in).",
    "tokens create": "The token is the only line on standard output, so `TOKEN=$(usage-pipeline tokens create …)` works. "
    "A note with its id is on standard error. See [tokens and quotas](http.md#tokens-and-quotas).",
    "budgets set": "See [budgets.md](budgets.md).",
    "prices import": "The columns of the file, and what they mean, are in [cost.md](cost.md#own-prices).",
    "prices show": "See [prices of the package](cost.md#prices-of-the-package).",
    "recost": "See [versions](cost.md#versions).",
    "rezone": "See [another time zone](operations.md#another-time-zone).",
    "archive restore": "See [usage-events.md](usage-events.md#lifecycle).",
    "erase-user": "What it reaches, and what it does not, is in [usage-events.md](usage-events.md#erasure).",
    "load events": "See [files.md](files.md).",
    "load issues": "See [issues.md](issues.md).",
    "stats": "It makes what the asset `stats/daily_issue_stats` makes, without Dagster.",
    "alerts list": "See [alerts.md](alerts.md).",
    "ui-password": "It prints a line for `deploy/.env` or a shell: keep its single quotes. Leave them out in a Kubernetes "
    "secret. See [the Dagster UI](operations.md#the-dagster-ui).",
}
_HEAD = """# Commands

<!-- Written by docs/write_commands.py from the help of the commands, and from notes of its own. Change the text there, and
run it again. -->

`usage-pipeline COMMAND --help` prints the options and the first sentences in the terminal. Commands read the
[settings](settings.md) from the environment: in a second terminal, first paste the line that `usage-pipeline dev` prints.

- Each command that ends by itself takes `--json`, and then prints one JSON document (`drain --watch`: one a round). `dev` and
  `api` run until they are stopped, and write a log to standard error.
- Exit status: **0** done; **1** some items failed, and the command lists them; **2** the command or a setting is wrong, or a
  server does not answer; **130** Ctrl-C; **141** the reader of the output went away, as `head` does. The reason is one line on
  standard error.
- A line "this is a bug" names a file with the traceback, in the folder for temporary files. It has lines of code, no values.
- Dates are days of `USAGE_TIMEZONE`, as `YYYY-MM-DD` and in no other form. A range has at most 3,660 days.
- An id is never broken in a table: where the terminal is too narrow, each row becomes a block of lines.
"""


def page() -> str:
    """The whole page. Raises ValueError if a command is in no group."""
    commands = dict(_leaves(get_command(app)))
    grouped = [name for names in _GROUPS.values() for name in names]
    if set(grouped) != set(commands) or not set(_NOTES) <= set(grouped):
        raise ValueError(f"expected each command in one group, differs: {set(grouped) ^ set(commands) | set(_NOTES)}")
    sections = ("\n".join(_group(title, names, commands)) for title, names in _GROUPS.items())
    return "\n".join([_HEAD, *sections])


def _leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from _leaves(child, f"{path}{name} ")
        else:
            yield path + name, child


def _group(title: str, names: tuple[str, ...], commands: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    for name in names:
        parameters = [one for one in commands[name].params if "--help" not in one.opts]
        yield f"### {name}\n"
        yield f"    {' '.join(['usage-pipeline', name, *map(_synopsis, parameters)])}\n"
        words = f"{commands[name].help} {_NOTES.get(name, '')}".split()
        yield fill(" ".join(words), 128, break_on_hyphens=False) + "\n"
        rows = [one for one in parameters if "--json" not in one.opts]
        if rows:
            yield "| | default | |\n|---|---|---|"
            yield from (f"| `{_name(one)}` | {_default(one)} | {_meaning(one)} |" for one in rows)
            yield ""


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).strip("[]")
    flag = getattr(parameter, "is_flag", False)
    return parameter.opts[0] if flag else f"{parameter.opts[0]} {parameter.metavar or parameter.name.upper()}"


def _synopsis(parameter: Any) -> str:
    name = _name(parameter)
    text = name if parameter.required else f"[{name}]"
    return f"{text}…" if getattr(parameter, "multiple", False) or parameter.nargs == -1 else text


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False) or parameter.default in (None, [], ()):
        return ""
    return f"`{parameter.default:g}`" if isinstance(parameter.default, float) else f"`{parameter.default}`"


def _meaning(parameter: Any) -> str:
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    limits = f"{low:,} to {high:,}." if low is not None and high is not None else ""
    return " ".join(filter(None, (parameter.help, limits)))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

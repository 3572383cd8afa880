"""`usage-pipeline load`: loads files of usage events, and issues into the applications' own tables."""

from contextlib import closing
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

load_app = typer.Typer(no_args_is_help=True, help="Load files of usage events, or of issues.")


class RowFormat(StrEnum):
    """What the rows of a file of events are."""

    AUTO = "auto"
    EVENTS = "events"
    LITELLM = "litellm-spend-logs"
    OPENAI = "openai-usage"
    LANGFUSE = "langfuse"


@load_app.callback()
def load() -> None:
    """Load files of usage events, or of issues."""


@load_app.command("events")
def events(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="*.json, *.jsonl, *.ndjson, *.csv, *.parquet, also with .gz or .zst, in any case of letters; or - for "
            "standard input, of any of these kinds.",
        ),
    ],
    row_format: Annotated[
        RowFormat, typer.Option("--format", help="What the rows are. auto: the names of their members tell.")
    ] = RowFormat.AUTO,
    as_json: AsJson = False,
) -> None:
    """Load usage events from files. To load the same file again changes nothing.

    What is rejected is told with its line and reason, and kept nowhere: put it right in the file, and load that again.
    """
    from usage_pipeline.commands.load_events import load_events

    chosen = None if row_format is RowFormat.AUTO else row_format.value
    raise typer.Exit(0 if load_events(files, chosen, as_json) else 1)


@load_app.command("issues")
def issues(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV or JSON with number, created_at, updated_at, closed_at, state, comments, and if known reactions, title. "
            "Exports of `gh issue list --json` and of Jira have them under their own names.",
        ),
    ],
    project: Annotated[
        str | None,
        typer.Option(help="Project of the issues, such as owner/name. Needed when several projects are loaded."),
    ] = None,
    timezone: Annotated[
        str, typer.Option(help="Time zone of times without an offset, such as Europe/Vienna. Jira writes such times.")
    ] = "UTC",
    as_json: AsJson = False,
) -> None:
    """Load issues and their comments from a file. To load the same file again changes nothing."""
    from usage_pipeline.issues.load import load_issues
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        report = load_issues(connection, file, project=project, zone=_zone(timezone))
    if as_json:
        print_json({"success": report.is_success, "issues": report.issues, **asdict(report)})
    else:
        rows = [
            ("issues", report.lines, report.bad, report.new_issues, report.changed_issues, 0),
            ("comments", None, None, report.new_comments, report.changed_comments, report.removed_comments),
        ]
        print_table(f"Loaded {file.name}", ["what", "in the file", "refused", "new", "changed", "removed"], rows)
        if report.repeated:
            say(f"{counted(report.repeated, 'line repeats', 'lines repeat')} another line.")
        for bad in report.bad_lines:
            say(f"line {bad.line}: {bad.reason}", to_errors=True)
        if report.bad > len(report.bad_lines):
            say(f"and {counted(report.bad - len(report.bad_lines), 'more bad line')}", to_errors=True)
    raise typer.Exit(0 if report.is_success else 1)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--timezone: expected a time zone such as UTC or Europe/Vienna, came {name[:60]!r}") from None

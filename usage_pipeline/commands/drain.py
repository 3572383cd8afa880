"""`usage-pipeline drain`: moves counters and request events from Redis to PostgreSQL, once or all the time."""

import logging
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, unset_servers
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import load_settings

if TYPE_CHECKING:
    from usage_pipeline.drain.rounds import RoundReport


def drain(
    once: Annotated[bool, typer.Option("--once", help="Move what is there, then stop (the default).")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until SIGTERM or SIGINT, then finish the current batch and stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move the counters of API keys, providers and tokens, and request events, from Redis to PostgreSQL."""
    from usage_pipeline.drain import rounds

    if once and watch:
        raise UsageError("expected --once or --watch, came both")
    settings, should_stop = load_settings(), _stop_on_signals()
    if watch:
        if note := unset_servers(settings):
            logging.getLogger(__name__).info("%s.", note)
        on_round = _print_round_json if as_json else _ignore_round
        rounds.watch(settings, rounds.ALL_FAMILIES, should_stop=should_stop, on_round=on_round)
        logging.getLogger(__name__).info("drain: stopped; what comes from now on waits in Redis for the next drain")
        return
    report = rounds.drain_until_empty(settings, should_stop=should_stop)
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
            say(f"Another process drains: {', '.join(report.busy)}", to_errors=True)
        if should_stop.is_set() and not report.is_complete:
            say("Stopped before all was drained. What is left waits in Redis for the next drain.", to_errors=True)
    raise typer.Exit(0 if succeeded else 1)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _ignore_round(_: object) -> None:
    """The log has the rounds of `drain --watch`."""


def _print_round_json(report: "RoundReport") -> None:
    print_json({"success": report.is_complete and not report.dead_letters, **asdict(report)})

"""`usage-pipeline drain`: moves counters and request events from Redis to PostgreSQL, once or all the time."""

import logging
import signal
import threading
from dataclasses import asdict
from pathlib import Path
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
    heartbeat: Annotated[
        Path | None,
        typer.Option(
            "--heartbeat",
            help="With --watch: write this file again and again: `drains`, or `waits` and the reason. For probes.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move the counters of API keys, providers and tokens, and request events, from Redis to PostgreSQL."""
    from usage_pipeline.drain import rounds

    if once and watch:
        raise UsageError("expected --once or --watch, came both")
    if heartbeat and not watch:
        raise UsageError("expected --watch beside --heartbeat, came none")
    settings, should_stop = load_settings(), _stop_on_signals()
    if watch:
        if note := unset_servers(settings):
            logging.getLogger(__name__).info("%s.", note)
        on_round = _print_round_json if as_json else _ignore_round
        on_beat = Heartbeat(heartbeat) if heartbeat else _ignore_beat
        rounds.watch(settings, rounds.ALL_FAMILIES, should_stop=should_stop, on_round=on_round, on_beat=on_beat)
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


class Heartbeat:
    """A file that is young while the worker goes round, and says what hinders it. Raises UsageError if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._write("waits: begins")
        except (OSError, ValueError) as error:
            # A ValueError is a NUL in the name.
            raise UsageError(
                f"--heartbeat: expected a file that can be written, came one that cannot: {error}"
            ) from None

    def __call__(self, problem: str) -> None:
        try:
            self._write(f"waits: {problem}" if problem else "drains")
        except OSError as error:
            # The drain is worth more. Who looks at the file takes the worker for stuck, and restarts it.
            logging.getLogger(__name__).warning("drain: the heartbeat cannot be written: %s", error)

    def _write(self, state: str) -> None:
        self._path.write_text(f"{state}\n", encoding="utf-8")


def _ignore_beat(_: str) -> None:
    """Nobody asked for a heartbeat."""


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _ignore_round(_: object) -> None:
    """The log has the rounds of `drain --watch`."""


def _print_round_json(report: "RoundReport") -> None:
    print_json({"success": report.is_complete and not report.dead_letters, **asdict(report)})

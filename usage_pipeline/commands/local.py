"""`usage-pipeline dev` and `usage-pipeline demo`: run everything on this machine."""

import logging
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table, progress, say
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    from usage_pipeline.local.demo.costs import CostResult
    from usage_pipeline.local.demo.run import DemoResult


def dev(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Dagster UI. If it is taken, the next free port.")
    ] = 3000,
    api_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the HTTP service. If it is taken, the next free port.")
    ] = 8000,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="The Dagster UI shows everything, but cannot change anything.")
    ] = False,
    worker: Annotated[
        bool,
        typer.Option("--worker", help="A process of its own drains all the time, and the drain sensors watch it."),
    ] = False,
) -> None:
    """Run everything on this machine: PostgreSQL, Redis, the Dagster UI and daemon, and the HTTP service.

    It uses the servers that DATABASE_URL, REDIS_URL and DAGSTER_POSTGRES_URL name. Where one is not set, it starts its own.
    """
    from usage_pipeline.local.dev import run_dev

    raise typer.Exit(run_dev(port=port, api_port=api_port, read_only=read_only, worker=worker))


# As a shell has it for a program that Ctrl-C ended.
_INTERRUPTED = 130
# Of `dev`, too.
_FOLDER = Path(".local")


def demo(
    trace: Annotated[
        Path | None, typer.Option(help="A CSV file to replay. Columns: TIMESTAMP, ContextTokens, GeneratedTokens.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.5, max=600, help="How many seconds of made-up traffic to write.")
    ] = 8.0,
    writers: Annotated[int, typer.Option(min=1, max=32, help="Threads that write at the same time.")] = 2,
    folder: Annotated[Path, typer.Option(help="Folder for the data of PostgreSQL and Redis.")] = _FOLDER,
    as_json: AsJson = False,
) -> None:
    """Write made-up traffic, drain it at the same time, and compare what was written with what is stored."""
    from usage_pipeline.local.demo.run import run_demo

    if trace is not None:
        _expect_readable(trace)
    logging.getLogger().setLevel(logging.WARNING)
    _interrupt_once()
    try:
        with progress(as_json) as note:
            result = run_demo(folder, trace=trace, seconds=seconds, writers=writers, say=note)
    except KeyboardInterrupt:
        say(
            "Stopped before its end, without a comparison. Its PostgreSQL, Redis and HTTP service are stopped, too: nothing is "
            f"left running. What it had stored is in {folder}.",
            to_errors=True,
        )
        raise typer.Exit(_INTERRUPTED) from None
    is_equal = result.difference == 0 and result.cost_difference == 0
    succeeded = is_equal and result.are_days_materialized
    if as_json:
        differences = {"difference": result.difference, "cost_difference": result.cost_difference}
        print_json({"success": succeeded, **differences, **asdict(result)})
    else:
        _print_demo(result, folder)
    raise typer.Exit(0 if succeeded else 1)


def _interrupt_once() -> None:
    """Ctrl-C, SIGTERM and a closed terminal raise KeyboardInterrupt. A second one would cut short what stops the servers."""
    numbers = [
        one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN
    ]

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        # Of threads whose servers are being stopped.
        logging.disable()
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def _expect_readable(trace: Path) -> None:
    try:
        with trace.open("rb"):
            return
    except OSError as error:
        raise UsageError(f"--trace: expected a file that can be read, came {trace}: {error.strerror}") from None


def _print_demo(result: "DemoResult", folder: Path) -> None:
    """Prints the comparison of both sides, and where to look next."""
    columns = ["family", "written", "stored", "refused", "difference"]
    rows = [(found.family, found.written, found.stored, found.refused, found.difference) for found in result.families]
    print_table("Written while drains ran, and what became of it", columns, rows)
    columns = ["", "by the price package", "stored", "difference"]
    print_table(
        "What the usage events cost, in US dollars, and how many of them",
        columns,
        [_cost_row(one) for one in result.costs],
    )
    is_equal = result.difference == 0 and result.cost_difference == 0
    verdict = (
        "nothing lost, nothing counted twice, every compared cost right"
        if is_equal
        else "this is a bug: please report it"
    )
    say(
        f"Difference {result.difference} over all counts of all keys, {result.cost_difference:f} over all costs: {verdict}."
    )
    if result.uncompared_costs:
        say(
            f"The costs of {counted(result.uncompared_costs, 'event')} are not compared: other prices hold for them, your own "
            "ones or those of another version of the package."
        )
    say(
        f"The demo wrote {counted(result.requests, 'request')} (5 records each) and sent "
        f"{counted(result.events_sent, 'usage event')} over HTTP (each tenth twice). It drained "
        f"{counted(result.drains, 'time')} ({result.drains_while_writing} while writing). The largest drain moved "
        f"{result.keys_per_second:,.0f} keys a second. All of it took {result.seconds:.0f} s."
    )
    days = f"{result.days[0]} to {result.days[-1]}" if result.days else "none"
    outcome = "materialized" if result.are_days_materialized else "NOT all materialized"
    say(f"Daily partitions {outcome}: {days}.")
    if result.findings:
        say("What to look at:")
    for finding in result.findings:
        say(f"- {finding}")
    if folder.resolve() == _FOLDER.resolve():
        say("Next: `usage-pipeline dev` shows these data in the Dagster UI and on the dashboard.")
    else:
        say(f"The data are in {folder}. `dev` does not show them: it uses .local of the folder in which you start it.")


def _cost_row(cost: "CostResult") -> tuple[str, object, object, object]:
    """Dollars with six decimals, numbers of requests as they are."""
    if cost.measure.endswith("_usd"):
        return cost.measure, f"{cost.expected:,.6f}", f"{cost.stored:,.6f}", f"{cost.difference:f}"
    return cost.measure, f"{cost.expected:,f}", f"{cost.stored:,f}", f"{cost.difference:f}"

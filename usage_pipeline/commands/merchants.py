"""`usage-pipeline aggregate`, `merchants` and `counters`: the commands for merchant counters (contracts §1.4)."""

from dataclasses import asdict
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError, chosen_days, chosen_range, parsed_date, past_date
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    from usage_pipeline.merchants.counters import CounterKey
    from usage_pipeline.merchants.regressions import Decision, Filters
    from usage_pipeline.merchants.status import DayStatus

merchants_app = typer.Typer(no_args_is_help=True, help="Stored usage of merchants.")
counters_app = typer.Typer(
    no_args_is_help=True, help="Decide about merchant counters that Redis has other than they were."
)


def aggregate(
    day: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="One day. Default: yesterday.")
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM-DD", help="First day of a range, together with --to.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the range.")] = None,
    merchant: Annotated[str | None, typer.Option(help="Only this merchant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Store what the merchant counters in Redis count for a day, or for each day of a range."""
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
            say(note)
        for error in report.all_errors:
            say(error, to_errors=True)
    raise typer.Exit(0 if report.is_success else 1)


@merchants_app.callback()
def merchants() -> None:
    """Stored usage of merchants."""


@merchants_app.command("status")
def merchants_status(
    day: Annotated[str | None, typer.Argument(metavar="[DATE]", help="Default: today.")] = None, as_json: AsJson = False
) -> None:
    """Show the stored merchant usage of a day: when it was read from Redis, from how many keys, and what is missing."""
    from usage_pipeline.merchants.status import day_status
    from usage_pipeline.rollups.daily import current_day

    settings = load_settings()
    today = current_day(settings.timezone)
    found = day_status(settings, today if day is None else past_date("DATE", day, today=today))
    if as_json:
        print_json(asdict(found))
        return
    _print_status(found)


_MERCHANT = Annotated[str | None, typer.Option(help="Only this merchant.")]
_DATE = Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="Only this date.")]
_METRIC = Annotated[str | None, typer.Option(help="Only this metric.")]
_SURE = Annotated[
    bool,
    typer.Option("--sure", help="Also if the counter looks like another case. With --merchant, --date and --metric."),
]


@counters_app.command("accept-reset")
def accept_reset(
    merchant: _MERCHANT = None,
    day: _DATE = None,
    metric: _METRIC = None,
    reason: Annotated[str | None, typer.Option(help="Why. It is kept with the decision.")] = None,
    sure: _SURE = False,
    as_json: AsJson = False,
) -> None:
    """Accept that Redis lost merchant counters: the stored values stay, and what Redis counts since then is added.

    What looks like another case is left as it is: a counter that an odometer shows as brought back, or one that still reads
    more than half of its stored value.
    """
    from usage_pipeline.merchants.regressions import accept_resets

    filters = _filters(merchant, day, metric, is_sure=sure)
    _print_decisions(accept_resets(load_settings(), filters, reason=reason, is_sure=sure), "resets", filters, as_json)


@counters_app.command("accept-restore")
def accept_restore(
    merchant: _MERCHANT = None,
    day: _DATE = None,
    metric: _METRIC = None,
    reason: Annotated[str | None, typer.Option(help="Why. It is kept with the decision.")] = None,
    sure: _SURE = False,
    as_json: AsJson = False,
) -> None:
    """Accept that Redis brought merchant counters back with another value: what is stored stays, and counting goes on from it.

    So it is after an old snapshot or a replica that was behind, and when the file of a lost Redis is put back. What no odometer
    shows is left as it is, unless it jumped to about what was lost before.
    """
    from usage_pipeline.merchants.regressions import accept_restores

    filters = _filters(merchant, day, metric, is_sure=sure)
    _print_decisions(
        accept_restores(load_settings(), filters, reason=reason, is_sure=sure), "restores", filters, as_json
    )


@counters_app.command("accept-correction")
def accept_correction(
    reason: Annotated[str, typer.Option(help="Why. It is kept with the decision.")],
    merchant: _MERCHANT = None,
    day: _DATE = None,
    metric: _METRIC = None,
    sure: _SURE = False,
    as_json: AsJson = False,
) -> None:
    """Accept that merchant counters were changed on purpose: what they read is stored.

    What looks like another case is left as it is: a counter that reads half of its stored value or less, or one that an
    odometer shows as lost or brought back.
    """
    from usage_pipeline.merchants.regressions import accept_corrections

    filters = _filters(merchant, day, metric, is_sure=sure)
    _print_decisions(
        accept_corrections(load_settings(), filters, reason=reason, is_sure=sure), "corrections", filters, as_json
    )


def _days(settings: Settings, day: str | None, first: str | None, last: str | None) -> list[date]:
    from usage_pipeline.rollups.daily import current_day

    today = current_day(settings.timezone)
    start, end = chosen_range(day, first, last, default=today - timedelta(days=1))
    if day is not None:
        past_date("--date", day, today=today)
    return chosen_days(start, end, today=today)


def _print_status(found: "DayStatus") -> None:
    """Prints the stored metrics of a day, when they were aggregated, and what is missing."""
    metrics = [(metric.metric_type, metric.merchants, metric.total, metric.updated_at) for metric in found.metrics]
    print_table(f"Merchant usage of {found.day}", ["metric", "merchants", "total", "last change"], metrics)
    last = found.last_aggregation
    when = (
        f"last aggregated {last.applied_at:%Y-%m-%d %H:%M:%S %Z} from {counted(last.keys, 'key')}"
        if last
        else "never aggregated"
    )
    say(f"{when}; Redis has {counted(found.keys_in_redis, 'key')} now; refused: {found.refused:,}.")
    missing = [(*_counter_cells(one.key), one.reads, one.stored) for one in found.missing]
    print_table(
        f"{counted(found.missing_count, 'counter')} whose stored value is too low or missing",
        ["merchant", "date", "metric", "should be", "stored"],
        missing,
    )
    regressions = [
        (one.merchant_id, one.metric_type, one.stored_value, one.counter_value, one.detected_at)
        for one in found.regressions
    ]
    print_table(
        f"{counted(found.regression_count, 'counter that reads', 'counters that read')} lower than what is stored "
        "(open regressions)",
        ["merchant", "metric", "stored", "last read", "detected"],
        regressions,
    )


def _filters(merchant: str | None, day: str | None, metric: str | None, *, is_sure: bool) -> "Filters":
    from usage_pipeline.merchants.regressions import Filters

    if is_sure and None in (merchant, day, metric):
        raise UsageError("--sure: expected --merchant, --date and --metric with it, so that it is about one counter")
    return Filters(merchant, None if day is None else parsed_date("--date", day), metric)


def _print_decisions(decisions: "list[Decision]", name: str, filters: "Filters", as_json: bool) -> None:
    """Prints what became of each regression. Exits with status 1 if one was left open.

    Raises UsageError when those that were named are none.
    """
    named = [str(one) for one in (filters.merchant_id, filters.day, filters.metric_type) if one is not None]
    if named and not decisions:
        raise UsageError(
            f"no open regression is of {', '.join(named)}; `usage-pipeline merchants status DATE` lists those of a day"
        )
    is_done = all(one.outcome != "left_open" for one in decisions)
    if as_json:
        print_json({"success": is_done, name: [asdict(one) for one in decisions]})
    elif not decisions:
        say("Nothing to accept: no open regression is meant.")
    else:
        columns = ["merchant", "date", "metric", "outcome", "stored before", "stored after", "reason"]
        rows = [
            (*_counter_cells(one.key), one.outcome, one.stored_before, one.stored_after, one.reason)
            for one in decisions
        ]
        print_table(name.capitalize(), columns, rows)
    raise typer.Exit(0 if is_done else 1)


def _counter_cells(key: "CounterKey") -> tuple[str, date, str]:
    """Merchant, date and metric of a counter, as cells."""
    return key.merchant_id, key.day, key.metric_type

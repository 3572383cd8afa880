"""`usage-pipeline alerts`: lists the open alerts of the table ops.alerts, takes them on, and makes them silent for a time."""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from usage_pipeline.commands.options import AsJson, UsageError
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.process import user_name
from usage_pipeline.settings import load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    import psycopg

    from usage_pipeline.alerting.record import OpenAlert

alerts_app = typer.Typer(invoke_without_command=True)
Keys = Annotated[
    list[str],
    typer.Argument(metavar="KEY...", help="Number or key of an open alert, as `usage-pipeline alerts` shows it."),
]
_SPAN = re.compile(r"(\d{1,4})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=30)


@alerts_app.callback()
def alerts(context: typer.Context, as_json: AsJson = False) -> None:
    """Open alerts: what is wrong, what to do, and who has taken it on. Without a command it lists them."""
    if context.invoked_subcommand is None:
        list_open(as_json)
    elif as_json:
        raise UsageError(f"--json: expected it after `{context.invoked_subcommand}`")


@alerts_app.command("list")
def list_open(as_json: AsJson = False) -> None:
    """List the open alerts, oldest first, and what to do about each. `usage-pipeline alerts` does the same."""
    from usage_pipeline.alerting.record import open_alerts
    from usage_pipeline.storage.postgres import connect

    with closing(connect(load_settings())) as connection:
        found = open_alerts(connection)
    if as_json:
        print_json({"alerts": [asdict(one) for one in found]})
        return
    rows = [(one.alert_id, f"{one.first_at:%m-%d %H:%M}", one.title, _state(one), one.delivery_error) for one in found]
    print_table(counted(len(found), "open alert"), ["number", "since", "title", "state", "not delivered"], rows)
    for one in found:
        say("")
        say(f"{one.alert_id}: {one.text}")
        say(f"Key: {one.dedupe_key}")
        say(f"What to do: {one.remedy}")
        if one.link:
            say(one.link)


@alerts_app.command("ack")
def acknowledge_some(keys: Keys, as_json: AsJson = False) -> None:
    """Take alerts on: they are not sent again until they are over, or twice as large. Status 1: some are not open."""
    from usage_pipeline.alerting.record import acknowledge

    _decide(keys, lambda connection, key: acknowledge(connection, key, user_name()), "acknowledged", as_json=as_json)


@alerts_app.command("snooze")
def snooze_some(
    keys: Keys,
    span: Annotated[
        str, typer.Option("--for", metavar="TIME", help="For how long: minutes, hours or days, as 30m, 2h or 3d.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make alerts silent for a time. That they are over is told all the same. Status 1: some are not open."""
    from usage_pipeline.alerting.record import snooze

    wanted = _span(span)
    _decide(keys, lambda connection, key: snooze(connection, key, wanted, user_name()), "snoozed", as_json=as_json)


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    span = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found and found[1].isascii() else timedelta(0)
    if not timedelta(0) < span <= _LONGEST:
        raise UsageError(f"--for: expected a time such as 30m, 2h or 3d, at most 30d, came {text!r}")
    return span


def _decide(keys: list[str], decide: Callable[["psycopg.Connection", str], bool], done: str, *, as_json: bool) -> None:
    from usage_pipeline.storage.postgres import connect
    from usage_pipeline.texts import storable

    with closing(connect(load_settings())) as connection:
        found = {key: decide(connection, storable(key)) for key in dict.fromkeys(keys)}
    known, unknown = [key for key in found if found[key]], [key for key in found if not found[key]]
    if as_json:
        print_json({"success": not unknown, done: known, "not_open": unknown})
    else:
        for key in known:
            say(f"{key} is {done}.")
        for key in unknown:
            say(
                f"{key}: expected the number or key of an open alert; `usage-pipeline alerts` lists them",
                to_errors=True,
            )
    if unknown:
        raise typer.Exit(1)


def _state(alert: "OpenAlert") -> str | None:
    """Who has taken it on, or made it silent."""
    said = []
    if alert.acknowledged_at is not None:
        said.append(f"acknowledged by {alert.acknowledged_by} at {alert.acknowledged_at:%m-%d %H:%M}")
    if alert.is_snoozed and alert.snoozed_until is not None:
        said.append(f"snoozed by {alert.snoozed_by} until {alert.snoozed_until:%m-%d %H:%M}")
    return ", ".join(said) or None

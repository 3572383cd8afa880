"""The group of commands `usage-pipeline budgets`. What it changes, gateways hear of at once, if Redis is there."""

import logging
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_pipeline.commands.options import AsJson
from usage_pipeline.commands.output import print_json, print_table, say
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.texts import counted

if TYPE_CHECKING:
    import psycopg

    from usage_pipeline.budgets.standing import Standing

budgets_app = typer.Typer(
    no_args_is_help=True, help="Budgets: how much of a day, week or month may be used, and by whom."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the budget.")]


@budgets_app.command("set")
def set_one(
    name: Name,
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPE",
            help="Whose usage counts: team=T, service=S, user=U, model=M or api_key=K, as events name them, or all.",
        ),
    ],
    period: Annotated[str, typer.Option(help="day, week (from Monday) or month, in USAGE_TIMEZONE.")],
    limit: Annotated[str, typer.Option(help="How much may be used in a period, for example 500.")],
    unit: Annotated[str, typer.Option(help="What is counted: usd, tokens or requests.")],
    alert: Annotated[
        str | None,
        typer.Option(help="Percent of the limit at which you are told, once a period each. Default: 50,80,100."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set a budget, or change the one of that name. To do it twice changes nothing."""
    from usage_pipeline.budgets.budget import budget_of
    from usage_pipeline.budgets.store import set_budget
    from usage_pipeline.storage.postgres import connect

    budget = budget_of(name, scope, period, limit, unit, alert)
    settings = load_settings()
    with closing(connect(settings)) as connection:
        before = _scopes(connection)
        change = set_budget(connection, budget)
        found = _stand(settings, connection, before)
    standing = next((one for one in found if one.budget.name == name), None)
    if as_json:
        print_json({"success": True, "change": change, "budget": standing and _document(standing)})
        return
    said = {"made": "is set", "changed": "is changed", "unchanged": "is as it was"}[change]
    used = f" {budget.said(standing.used)} of {budget.said(budget.limit)} are used." if standing else ""
    say(f'Budget "{name}" {said}.{used}')


@budgets_app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """List the budgets: what is used in the current period, what is left, and what will be used at the present rate."""
    from usage_pipeline.budgets.standing import standings
    from usage_pipeline.budgets.store import budgets
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    with closing(connect(settings)) as connection:
        found = standings(connection, budgets(connection), settings.timezone, datetime.now(UTC))
    if as_json:
        print_json({"budgets": [_document(standing) for standing in found]})
        return
    columns = ["name", "scope", "period", "from", "to", "limit", "used", "share", "left", "forecast", "as of"]
    rows = [
        (
            one.budget.name,
            str(one.budget.scope),
            one.budget.period,
            str(one.window.day),
            str(one.last_day),
            one.budget.said(one.budget.limit),
            one.budget.said(one.used),
            f"{one.share:.1%}",
            one.budget.said(one.left),
            None if one.forecast is None else one.budget.said(one.forecast),
            one.as_of,
        )
        for one in found
    ]
    print_table(counted(len(rows), "budget"), columns, rows, to_copy={"name"})
    for one in found:
        if note := one.unpriced_note:
            say(f"{one.budget.name}: {note}")


@budgets_app.command("remove")
def remove(name: Name, as_json: AsJson = False) -> None:
    """Remove a budget. Its alerts are over then. Status 1: no budget has that name."""
    from usage_pipeline.budgets.store import remove_budget
    from usage_pipeline.storage.postgres import connect

    settings = load_settings()
    with closing(connect(settings)) as connection:
        before = _scopes(connection)
        is_removed = remove_budget(connection, name)
        _stand(settings, connection, before)
    if as_json:
        print_json({"success": is_removed, "removed": is_removed})
    elif is_removed:
        say(f'Budget "{name}" is removed.')
    else:
        say(f'No budget has the name "{name}": nothing to remove.', to_errors=True)
    raise typer.Exit(0 if is_removed else 1)


def _scopes(connection: "psycopg.Connection") -> set[str]:
    from usage_pipeline.budgets.store import budgets

    return {str(budget.scope) for budget in budgets(connection)}


def _stand(settings: Settings, connection: "psycopg.Connection", before: set[str]) -> "list[Standing]":
    """How all budgets stand now, published to Redis. Without Redis a note says when gateways will know.

    `before` are the scopes that had a budget.
    """
    import redis

    from usage_pipeline.budgets.publishing import publish, why_not_published
    from usage_pipeline.budgets.standing import standings
    from usage_pipeline.budgets.store import budgets
    from usage_pipeline.storage.redis import RedisUnavailable

    found = standings(connection, budgets(connection), settings.timezone, datetime.now(UTC))
    try:
        publish(settings, found, gone=before)
    except (redis.RedisError, RedisUnavailable, OSError) as error:
        logging.getLogger(__name__).debug("budgets", exc_info=error)
        say(
            f"{why_not_published(error)}. Until that is mended, gateways go by what they knew; then they hear of this from the "
            "sensor `alerts`.",
            to_errors=True,
        )
    return found


def _document(standing: "Standing") -> dict[str, Any]:
    budget, forecast = standing.budget, standing.forecast
    return {
        "name": budget.name,
        "scope": str(budget.scope),
        "period": budget.period,
        "period_start": standing.window.day,
        "period_end": standing.last_day,
        "unit": budget.unit,
        "limit": format(budget.limit, "f"),
        "used": format(standing.used, "f"),
        "left": format(standing.left, "f"),
        "share": standing.share,
        "forecast": None if forecast is None else format(forecast, "f"),
        "unpriced_requests": standing.unpriced_requests,
        "alert_shares": budget.alert_shares,
        "as_of": standing.as_of.isoformat(),
    }

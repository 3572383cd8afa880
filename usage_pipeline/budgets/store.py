"""The table of budgets, `ops.budgets`."""

from typing import Literal

import psycopg

from usage_pipeline.budgets.budget import Budget, Scope
from usage_pipeline.storage.sql import load

Change = Literal["made", "changed", "unchanged"]


def set_budget(connection: psycopg.Connection, budget: Budget) -> Change:
    """Makes the budget of that name, or makes it equal to this one."""
    arguments = {
        "name": budget.name,
        "scope_kind": budget.scope.kind,
        "scope_value": budget.scope.value,
        "period": budget.period,
        "unit": budget.unit,
        "limit": budget.limit,
        "alert_shares": list(budget.alert_shares),
    }
    row = connection.execute(load("budgets/upsert_budget"), arguments).fetchone()
    return "unchanged" if row is None else "made" if row[0] else "changed"


def remove_budget(connection: psycopg.Connection, name: str) -> bool:
    """Whether there was one."""
    return connection.execute("delete from ops.budgets where name = %s", (name,)).rowcount > 0


def budgets(connection: psycopg.Connection) -> list[Budget]:
    """All of them, by name."""
    return [
        Budget(name, Scope(kind, value), period, unit, limit, tuple(shares), changed_at)
        for name, kind, value, period, unit, limit, shares, changed_at in connection.execute(
            load("budgets/select_budgets")
        )
    ]

"""Why a cost changed between two periods: six parts that add up to the change, as analytics.cost_change finds them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql as compose

from usage_pipeline.explore.questions import Question
from usage_pipeline.explore.statements import statement
from usage_pipeline.explore.terms import METRIC_BY_NAME, Dimension, dimensions_of
from usage_pipeline.storage.sql import composed

GROUPS = ("team", "service", "provider")
# In the order of the counts of analytics.cost_change, after the requests, those with a known cost, and the cost.
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
_METRICS = ("requests", "unpriced_requests", "cost_usd", *_COUNTS)
# More models in one group than anybody has.
_MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """What a group cost before and after, and why, in US dollars. `group` is None for all together.

    A cost is None where there were requests, and no cost of any is known; the change and its parts where that is so of all
    requests of both periods. Costs are without the unpriced requests.
    """

    group: str | None
    previous_cost_usd: Decimal | None
    cost_usd: Decimal | None
    change_usd: Decimal | None
    volume_usd: Decimal | None
    mix_usd: Decimal | None
    tokens_per_request_usd: Decimal | None
    cache_usd: Decimal | None
    price_usd: Decimal | None
    coverage_usd: Decimal | None
    previous_unpriced_requests: int
    unpriced_requests: int


_ZERO = Decimal(0)
NO_CHANGE = Change(None, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, 0, 0)
"""Where there was no usage in either period."""


def changes_question(question: Question, group: Dimension | None) -> Question:
    """The question whose answer is split: by group, provider and model, over all of the days."""
    by = [group.name] if group else []
    names = [*by, *(name for name in ("provider", "model") if name not in by)]
    metrics = tuple(METRIC_BY_NAME[name] for name in _METRICS)
    return replace(question, grain="total", group_by=dimensions_of(*names), metrics=metrics)


def changes(
    connection: psycopg.Connection, question: Question, zone: ZoneInfo, group: Dimension | None
) -> Sequence[Change]:
    """Within a `reading.snapshot`: the changes of each group, the largest first; of all together as the one without a group.

    `question` has the days, what they are compared with, and filters. Raises CannotBeAnswered or psycopg.Error.
    """
    asked = changes_question(question, group)
    before = asked.compared_days
    assert before is not None  # noqa: S101  # the caller compares
    made = statement(asked, zone, is_file=True)
    columns = {dimension.name: f"group_{place}" for place, dimension in enumerate(asked.group_by)}
    named: list[compose.Composable] = [
        compose.SQL("{} as {}").format(compose.Identifier(columns[name]), compose.Identifier(name))
        for name in ("provider", "model")
    ]
    # Of all together there is one group.
    named += [] if group else [compose.SQL("true as is_all")]
    query = composed(
        "explore/select_changes",
        usage=compose.SQL("select answer.*, {} from ({}) as answer").format(compose.SQL(", ").join(named), made.query),
        group=compose.Identifier(columns[group.name] if group else "is_all"),
        counts_before=_counts("compared_"),
        counts_after=_counts(""),
    )
    arguments: dict[str, Any] = {**made.arguments, "most": _MOST_ROWS, "skipped": 0, "last_before": before.last}
    rows = connection.execute(query, arguments, prepare=False).fetchall()
    return [Change(row[0] if group else None, *row[1:]) for row in rows]


def _counts(prefix: str) -> compose.Composable:
    """As of analytics.cost_change."""

    def column(name: str) -> compose.Identifier:
        return compose.Identifier(f"{prefix}{name}")

    priced = compose.SQL("coalesce({} - {}, 0)").format(column("requests"), column("unpriced_requests"))
    requests, *others = (
        compose.SQL("coalesce({}, 0)").format(column(name)) for name in ("requests", "cost_usd", *_COUNTS)
    )
    return compose.SQL(", ").join([requests, priced, *others])

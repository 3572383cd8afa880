"""Answers to questions as items of JSON."""

from collections.abc import Sequence
from typing import Any

from usage_pipeline.api.usage.routes import plain
from usage_pipeline.explore.questions import Question
from usage_pipeline.explore.reading import COLUMNS_BEFORE_GROUPS


def item_of(question: Question, row: Sequence[Any]) -> dict[str, Any]:
    """A row of the question's statement as JSON has it."""
    item: dict[str, Any] = {} if question.grain == "total" else {"period": row[1]}
    place = COLUMNS_BEFORE_GROUPS
    for dimension in question.group_by:
        item[dimension.member] = row[place]
        place += 1
    item |= _measured(question, row[place:])
    if question.compare is not None:
        place += len(question.metrics)
        is_compared, *values = row[place:]
        item["previous"] = _measured(question, values) if is_compared else None
    return item


def _measured(question: Question, values: Sequence[Any]) -> dict[str, Any]:
    return {metric.member: plain(value) for metric, value in zip(question.metrics, values)}  # noqa: B905  # more follow

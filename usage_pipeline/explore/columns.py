"""The columns of an answer as a file has them."""

from collections.abc import Mapping
from typing import Any

from usage_pipeline.explore.questions import Question
from usage_pipeline.explore.terms import Dimension, Metric
from usage_pipeline.exports.columns import Column, Kind

_KINDS: Mapping[str, Kind] = {"usd": "money", "ms": "number", "share": "number"}
_EXAMPLES: Mapping[str, Any] = {"usd": "0.00245", "ms": 812.5, "share": 0.0125, "users": 17, "tokens": 540_000}


def columns_of(question: Question) -> list[Column]:
    """The columns of a file: those of an item, and `previous…` of a comparison."""
    period: Kind = "time" if question.grain == "hour" else "day"
    columns = (
        []
        if question.grain == "total"
        else [Column("period", period, "First day, or first moment of the hour", "2026-11-20")]
    )
    columns += [dimension_column(dimension) for dimension in question.group_by]
    columns += [metric_column(metric) for metric in question.metrics]
    if question.compare is not None:
        columns += [_compared(metric_column(metric)) for metric in question.metrics]
    return columns


def dimension_column(dimension: Dimension) -> Column:
    """The column of a grouping."""
    example = "search" if dimension.name == "team" else f"{dimension.family}-1"
    return Column(dimension.name, "text", dimension.title, example, is_nullable=True, member=dimension.member)


def metric_column(metric: Metric) -> Column:
    """The column of a metric."""
    kind = _KINDS.get(metric.unit, "count")
    example = _EXAMPLES.get(metric.unit, 1_200)
    return Column(metric.name, kind, metric.description, example, is_nullable=kind != "count", member=metric.member)


def _compared(column: Column) -> Column:
    shown = column.shown_name
    return Column(
        f"previous_{column.name}",
        column.kind,
        f"{column.description}; of the days it is compared with",
        column.example,
        is_nullable=True,
        member=f"previous{shown[0].upper()}{shown[1:]}",
    )

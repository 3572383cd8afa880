"""The query of a question. Names and values from outside are parameters; what is text here comes from `terms` and `sources`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from psycopg import sql as compose

from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.sources import Source
from usage_pipeline.explore.terms import MONEY, TAG_PREFIX, Dimension, Metric, Part
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.storage.sql import column_list, composed, relation

_COMMA = compose.SQL(", ")
_NOTHING = compose.SQL("")
_PERIODS = {
    "day": "{moved}",
    "week": "date_trunc('week', {moved})::date",
    "month": "date_trunc('month', {moved})::date",
    # A constant: groups of nothing else would be no group at all.
    "total": "date 'epoch'",
}


@dataclass(slots=True)
class Statement:
    """A query with its arguments."""

    query: compose.Composed = field(default_factory=lambda: compose.Composed([]))
    arguments: dict[str, Any] = field(default_factory=dict)


def statement(question: Question, zone: ZoneInfo, *, is_file: bool = False) -> Statement:
    """The query of all rows but for `most` and `skipped`, which the caller gives. Raises CannotBeAnswered.

    Its columns are the number of all rows, `period`, the groups, the metrics, whether the days compared with have the group,
    and their metrics. A file has no numbers of rows, no period where it is one, and no `is_compared`.
    """
    made = Statement()
    asked = _side(question, question.days, zone, made.arguments, "")
    compared: compose.Composable = _NOTHING
    sides = ["asked"]
    if (other := question.compared_days) is not None:
        sides.append("compared")
        side = _side(question, other, zone, made.arguments, "compared_")
        compared = composed("explore/join_compared", other=side, keys=_keys(question))
    made.query = composed(
        "explore/select_usage",
        columns=_COMMA.join(_columns(question, sides, is_file=is_file)),
        asked=asked,
        compared=compared,
        order=_COMMA.join(_order(question)),
    )
    return made


def _columns(question: Question, sides: list[str], *, is_file: bool) -> Iterable[compose.Composable]:
    if not is_file:
        yield compose.SQL("count(*) over () as all_rows")
    if not is_file or question.grain != "total":
        yield compose.Identifier("period")
    for number, dimension in enumerate(question.group_by):
        keys = [compose.Identifier(name) for name in _key_names(number, dimension)]
        yield compose.SQL("{} as {}").format(
            _text(dimension.shown).format(*keys), compose.Identifier(f"group_{number}")
        )
    for metric in question.metrics:
        column: compose.Composable = compose.Identifier("asked", metric.name)
        if len(sides) > 1 and metric.unit not in ("ms", "share") and metric.name != "cost_per_request_usd":
            # A group that only the other days have: sums of nothing.
            column = compose.SQL("case when asked.is_there then {} else 0 end").format(column)
        yield compose.SQL("{} as {}").format(column, compose.Identifier(metric.name))
    for side in sides[1:]:
        if not is_file:
            yield compose.SQL("{}.is_there as is_compared").format(compose.Identifier(side))
        for metric in question.metrics:
            yield compose.SQL("{} as {}").format(
                compose.Identifier(side, metric.name), compose.Identifier(f"{side}_{metric.name}")
            )


def _side(question: Question, days: Days, zone: ZoneInfo, arguments: dict[str, Any], prefix: str) -> compose.Composable:
    plan = question.plan
    parts = {metric.part for metric in question.metrics}
    first, until = _bounds(question, days, zone)
    arguments |= {f"{prefix}first": first, f"{prefix}until": until}
    common: dict[str, compose.Composable] = {
        "keys": _keys(question),
        "first": compose.Placeholder(f"{prefix}first"),
        "until": compose.Placeholder(f"{prefix}until"),
    }

    def of(source: Source) -> dict[str, compose.Composable]:
        moved = _moved(source, question, days, zone, arguments)
        made = _COMMA.join(_made_keys(source, question, moved))
        return {
            **common,
            "kept_to": _kept_to(source, question, arguments),
            "made_keys": made,
            "source": relation(source.table),
            "time": compose.Identifier(source.time),
        }

    joined: list[Part] = []
    fragments: dict[str, compose.Composable] = {"users": _NOTHING, "latencies": _NOTHING}
    others: tuple[tuple[Part, Source | None], ...] = (("users", plan.users), ("latencies", plan.latencies))
    for part, source in others:
        if source is not None:
            fragments[part] = composed(f"explore/{part}", **of(source), **_percentiles(question, source))
            joined.append(part)
    in_sums = parts - {*joined, "sums"}
    return composed(
        "explore/select_side",
        **of(plan.sums),
        **fragments,
        sums=_after_keys(_sums(question.metrics, in_sums)),
        metrics=_after_keys(_metric(metric) for metric in question.metrics),
        joined=_NOTHING.join(
            compose.SQL("\nleft join {} using ({})").format(compose.Identifier(part), common["keys"]) for part in joined
        ),
    )


def _sums(metrics: tuple[Metric, ...], in_sums: set[Part]) -> Iterable[compose.Composable]:
    """The sums that metrics need, each once. What a table has of a row is that of the group, where groups are its rows."""
    for name in dict.fromkeys(name for metric in metrics for name in metric.needs):
        form = "trim_scale(sum({0})) as {0}" if name in MONEY else "analytics.capped(sum({0})) as {0}"
        yield compose.SQL(form).format(compose.Identifier(name))
    for metric in metrics:
        if metric.part in in_sums:
            # Of hours that fall together where clocks change, nobody knows it.
            yield compose.SQL("case when count(*) = 1 then max({0}) end as {0}").format(compose.Identifier(metric.name))


def _metric(metric: Metric) -> compose.Composable:
    return compose.SQL("{} as {}").format(_text(metric.expression), compose.Identifier(metric.name))


def _percentiles(question: Question, source: Source) -> dict[str, compose.Composable]:
    """The shares that are looked for, in order, and the columns that they become; how the rows of a group are merged."""
    shares = sorted((metric.percentile, metric.name) for metric in question.metrics if metric.percentile is not None)
    columns = (
        compose.SQL("found.ms[{}] as {}").format(compose.Literal(place), compose.Identifier(name))
        for place, (_, name) in enumerate(shares, start=1)
    )
    near = (
        compose.SQL(
            "(ranked.requests_so_far > floor({0} * totals.last_rank) "
            "and ranked.requests_so_far - ranked.requests <= ceil({0} * totals.last_rank))"
        ).format(compose.Literal(share))
        for share, _ in shares
    )
    # Where each row is a group, its latencies are sorted and there once.
    is_merged = not question.are_days_apart or {dimension.family for dimension in question.group_by} != source.families
    summed, grouped = "sum(counts.requests::float8)", "\n    group by numbered.number, counts.latency_ms"
    return {
        "shares": compose.Literal([share for share, _ in shares]),
        "percentiles": _after_keys(columns),
        "is_near": compose.SQL(" or ").join(near),
        "requests": compose.SQL(summed if is_merged else "counts.requests::float8"),
        "merged": compose.SQL(grouped) if is_merged else _NOTHING,
    }


def _after_keys(columns: Iterable[compose.Composable]) -> compose.Composable:
    return _NOTHING.join(compose.SQL(", {}").format(column) for column in columns)


def _keys(question: Question) -> compose.Composed:
    return column_list(
        ["period", *(name for place, each in enumerate(question.group_by) for name in _key_names(place, each))]
    )


def _key_names(number: int, dimension: Dimension) -> list[str]:
    return [f"key_{number}_{place}" for place in range(len(dimension.columns))]


def _made_keys(source: Source, question: Question, moved: compose.Composable) -> Iterable[compose.Composable]:
    yield compose.SQL("{} as period").format(moved)
    for number, dimension in enumerate(question.group_by):
        for name, column in zip(_key_names(number, dimension), source.columns_of(dimension), strict=True):
            yield compose.SQL("{} as {}").format(_text(column), compose.Identifier(name))


def _moved(
    source: Source, question: Question, days: Days, zone: ZoneInfo, arguments: dict[str, Any]
) -> compose.Composable:
    """The window of a row, in the calendar of the days that were asked for: each is one of them."""
    column: compose.Composable = compose.Identifier(source.time)
    if question.grain == "hour":
        return column if days == question.days else _moved_hour(column, question, days, zone, arguments)
    if days != question.days:
        column = _moved_day(column, question, days, arguments)
    return _text(_PERIODS[question.grain]).format(moved=column)


def _moved_day(
    day: compose.Composable, question: Question, days: Days, arguments: dict[str, Any]
) -> compose.Composable:
    if question.compare == "month_before":
        arguments |= {"first_day": question.days.first, "last_day": question.days.last}
        # The last days of a longer month are those of the shorter one.
        return compose.SQL("least(greatest(({} + interval '1 month')::date, %(first_day)s), %(last_day)s)").format(day)
    arguments["moved_days"] = (question.days.first - days.first).days
    return compose.SQL("{} + %(moved_days)s::int").format(day)


def _moved_hour(
    hour: compose.Composable, question: Question, days: Days, zone: ZoneInfo, arguments: dict[str, Any]
) -> compose.Composable:
    """The hour of the same name on the day that it is beside. Where clocks change there may be none, or two of it: PostgreSQL
    takes the hour after, or the second.
    """
    arguments["zone"] = zone.key
    shown = compose.SQL("({} at time zone %(zone)s)").format(hour)
    day = _moved_day(compose.SQL("{}::date").format(shown), question, days, arguments)
    return compose.SQL("date_trunc('hour', ({} + {}::time) at time zone %(zone)s, %(zone)s)").format(day, shown)


def _bounds(question: Question, days: Days, zone: ZoneInfo) -> tuple[date | datetime, date | datetime]:
    return moments(days, zone) if question.grain == "hour" else (days.first, days.until)


def moments(days: Days, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first moment of the days, and the first one after them."""
    return day_window(days.first, zone).first, day_window(days.last, zone).end


def _kept_to(source: Source, question: Question, arguments: dict[str, Any]) -> compose.Composable:
    """Conditions of filters and bounds, and of the tag where one is grouped by."""
    found: list[compose.Composable] = [_text(source.only)] if source.only else []
    for kind, kept in (("filter", question.filters), ("within", question.within)):
        for number, (dimension, values) in enumerate(kept):
            name = f"{kind}_{number}"
            arguments[name] = list(values)
            found.append(
                compose.SQL("{} = any({})").format(_text(source.columns_of(dimension)[0]), compose.Placeholder(name))
            )
            if dimension.family == "tag":
                found.append(compose.SQL("not is_rest"))
    for dimension in (*question.group_by, *(each for each, _ in question.filters)):
        if dimension.family == "tag":
            arguments["tag"] = dimension.name.removeprefix(TAG_PREFIX)
            found.append(compose.SQL("tag = {}").format(compose.Placeholder("tag")))
    return _NOTHING.join(compose.SQL("\n      and {}").format(condition) for condition in found)


def _order(question: Question) -> Iterable[compose.Composable]:
    names = question.order_names
    if question.order is not None:
        direction = compose.SQL("desc nulls last" if question.order.is_descending else "asc nulls last")
        yield compose.SQL("{} {}").format(compose.Identifier(names[question.order.name]), direction)
    # Each row has a place of its own, so that pages follow each other.
    yield compose.Identifier("period")
    for number, dimension in enumerate(question.group_by):
        yield from (compose.Identifier(name) for name in _key_names(number, dimension))


def _text(expression: str) -> compose.SQL:
    """An expression of this package."""
    return compose.SQL(expression)

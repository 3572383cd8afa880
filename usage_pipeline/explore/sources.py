"""From which roll-up a question is answered: the smallest that has all its dimensions. Else the refusal says what works."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from usage_pipeline.explore.terms import DIMENSIONS, METRICS, SUMMED, Dimension, Metric, Part
from usage_pipeline.rollups.window_tables import GROUP

Grain = Literal["hour", "day", "week", "month", "total"]
GRAINS: tuple[Grain, ...] = get_args(Grain)


@dataclass(frozen=True, slots=True)
class Source:
    """A roll-up: `time` is the column of its window, `families` are its dimensions (`tag` is any tag), `summed` its counts.

    `parts`: what it also has, for groups that are all its dimensions. `only`: a condition for its rows; `value`: the column of
    the one dimension that they have, where that has another name.
    """

    name: str
    time: str
    families: frozenset[str]
    summed: frozenset[str] = frozenset(SUMMED)
    parts: frozenset[Part] = frozenset({"sums"})
    only: str = ""
    value: str = ""

    @property
    def table(self) -> str:
        return f"analytics.{self.name}"

    def columns_of(self, dimension: Dimension) -> tuple[str, ...]:
        """The expressions over this table that tell the values of the dimension apart."""
        return (self.value,) if self.value else dimension.columns


_ALL_PARTS: frozenset[Part] = frozenset(get_args(Part))
HOURS = Source("usage_hourly", "hour_start", frozenset(GROUP), parts=_ALL_PARTS)
_DAY = "usage_date"
_USERS_OF_TEAMS = Source("usage_user_team_daily", _DAY, frozenset({"team", "user"}))
_USERS = Source("usage_user_daily", _DAY, frozenset({*GROUP, "user"}))
# From the smallest to the largest.
_DAYS = (
    Source("usage_daily", _DAY, frozenset(GROUP), parts=_ALL_PARTS),
    Source("usage_error_daily", _DAY, frozenset({*GROUP, "error_type"}), frozenset({"errors"})),
    Source("usage_tag_daily", _DAY, frozenset({"team", "provider", "model", "tag"})),
    _USERS_OF_TEAMS,
    Source("usage_api_key_daily", _DAY, frozenset({*GROUP, "api_key"})),
    _USERS,
)
_OF_USERS = (_USERS_OF_TEAMS, _USERS)
_NO_SUMS: frozenset[str] = frozenset()
_OF_LATENCIES: frozenset[Part] = frozenset({"latencies"})
# Each latency of a group and day: where there are fewer groups, there are far fewer of them.
_LATENCIES = (
    *(
        Source(
            *("usage_latency_dimension_daily", _DAY, frozenset(families), _NO_SUMS, _OF_LATENCIES),
            only=f"dimension = '{name}'",
            value="value",
        )
        for name, families in (("all", ()), *((name, (name,)) for name in GROUP))
    ),
    Source("usage_latency_daily", _DAY, frozenset(GROUP), _NO_SUMS, _OF_LATENCIES),
)


class CannotBeAnswered(Exception):
    """No roll-up has what is asked for. The message says which grouping works."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The sources of the parts of a question. `users` and `latencies` are None where they are not asked for, or in `sums`."""

    sums: Source
    users: Source | None = None
    latencies: Source | None = None


def plan(
    grain: Grain,
    grouped: Collection[Dimension],
    other: Collection[Dimension],
    metrics: Iterable[Metric],
    *,
    are_days_apart: bool,
) -> Plan:
    """The sources for groups by these dimensions, kept to values of `grouped` and `other` ones.

    With `are_days_apart`, no two days are in one period. Raises CannotBeAnswered.
    """
    asked = tuple(metrics)
    families = {dimension.family for dimension in (*grouped, *other)}
    parts = {metric.part for metric in asked}
    needed = {name for metric in asked for name in metric.needs}
    tags = {dimension.name for dimension in (*grouped, *other) if dimension.family == "tag"}
    if len(tags) > 1:
        raise CannotBeAnswered(
            f"expected at most one tag, came {' and '.join(sorted(tags))}: each is rolled up by itself"
        )
    if grain == "hour":
        return _hourly(families, {dimension.family for dimension in grouped}, parts)
    sums = _first(_DAYS, families, needed, asked)
    # A group that is a row of the roll-up has its users and percentiles in it.
    if are_days_apart and sums.families == {dimension.family for dimension in grouped}:
        parts = parts - sums.parts
    return Plan(
        sums,
        _of_users(families) if "users" in parts else None,
        _of_latencies(families) if "latencies" in parts else None,
    )


def combinations() -> list[Mapping[str, list[str]]]:
    """What works, for programs: a question is answered if one entry has all its dimensions, its grain and all its metrics.

    Of `tag:NAME` it has one.
    """
    longer: list[Grain] = [grain for grain in GRAINS if grain != "hour"]
    found = []
    for source in _DAYS:
        of_users, of_latencies = (
            any(source.families <= other.families for other in others) for others in (_OF_USERS, _LATENCIES)
        )
        found.append(_combination(source, longer, of_users=of_users, of_latencies=of_latencies))
    found.append(_combination(HOURS, ["hour"], of_users=False, of_latencies=False))
    return found


def _combination(source: Source, grains: list[Grain], *, of_users: bool, of_latencies: bool) -> Mapping[str, list[str]]:
    parts = {"sums", *(["users"] if of_users else []), *(["latencies"] if of_latencies else [])}
    return {
        "dimensions": [*(one.name for one in DIMENSIONS if one.name in source.families), *_tags(source)],
        "grains": [*grains],
        "metrics": [one.name for one in METRICS if one.part in parts and set(one.needs) <= source.summed],
    }


def _tags(source: Source) -> list[str]:
    return ["tag:*"] if "tag" in source.families else []


def _hourly(families: set[str], grouped: set[str], parts: set[Part]) -> Plan:
    if not families <= HOURS.families:
        raise CannotBeAnswered(
            f"expected only {_listed(GROUP)} with grain=hour, came {_listed(sorted(families - HOURS.families))}: "
            "grain=day or longer has it"
        )
    if parts != {"sums"} and not HOURS.families <= grouped:
        raise CannotBeAnswered(
            f"expected group_by={','.join(GROUP)} for percentiles and distinct users of hours, came "
            f"group_by={','.join(sorted(grouped)) or '(nothing)'}: grain=day or longer has them for each grouping"
        )
    return Plan(HOURS)


def _first(sources: Iterable[Source], families: set[str], needed: set[str], metrics: Iterable[Metric]) -> Source:
    with_dimensions = [source for source in sources if families <= source.families]
    if not with_dimensions:
        raise CannotBeAnswered(_what_goes_together(families))
    for source in with_dimensions:
        if needed <= source.summed:
            return source
    wrong = [metric.name for metric in metrics if not set(metric.needs) <= with_dimensions[0].summed]
    raise CannotBeAnswered(f"expected only the metric errors with error_type, came {_listed(wrong)}")


def _of_users(families: set[str]) -> Source:
    for source in _OF_USERS:
        if families <= source.families:
            return source
    wrong = families - _USERS.families
    raise CannotBeAnswered(
        f"distinct_users: expected only {_listed((*GROUP, 'user'))} as groups and filters, came {_listed(sorted(wrong))}"
    )


def _of_latencies(families: set[str]) -> Source:
    for source in _LATENCIES:
        if families <= source.families:
            return source
    raise CannotBeAnswered(
        f"percentiles of latency: expected only {_listed(GROUP)} as groups and filters, came "
        f"{_listed(sorted(families - {*GROUP}))}"
    )


def _what_goes_together(families: set[str]) -> str:
    """Each kind that rows of its own are kept for, and what it can be grouped with."""
    kinds = [family for family in ("user", "api_key", "error_type", "tag") if family in families]
    if len(kinds) > 1:
        return (
            f"expected one of user, api_key, error_type and tag in groups and filters, came {_listed(kinds)} together"
        )
    return f"expected a tag with team, provider and model only, came it with {_listed(sorted(families - {'tag'}))}"


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last

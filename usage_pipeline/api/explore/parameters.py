"""The question in a query string. What is wrong gets 422, what the token may not see 403."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from typing import TypeVar

import msgspec
from fastapi import Request

from usage_pipeline.access.tokens import AccessToken
from usage_pipeline.api.problems import Problem
from usage_pipeline.api.usage import queries
from usage_pipeline.api.usage.queries import Format
from usage_pipeline.bindings import Binding
from usage_pipeline.explore.questions import COMPARISONS, Days, Order, Question
from usage_pipeline.explore.sources import GRAINS, CannotBeAnswered
from usage_pipeline.explore.terms import (
    DEFAULT_METRICS,
    DIMENSIONS,
    METRIC_BY_NAME,
    METRICS,
    Dimension,
    Metric,
    dimension_of,
)

USERS_SCOPE = "users"
MAX_DAYS = 1_100
MAX_ROWS = 10_000
DEFAULT_ROWS = 1_000
# Of one filter, and of groups.
MAX_VALUES = 100
MAX_GROUPS = 6
_MAX_SKIPPED = 100_000_000
FILTER = "filter."
_PLAIN = frozenset({"from", "to", "grain", "group_by", "metrics", "order", "limit", "after", "compare", "format"})
_OF_BOUNDS = {"team": "team", "service": "service", "user_id": "user"}
Choice = TypeVar("Choice", bound=str)
Values = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and which rows of its answer are wanted. `given` are its parameters, as they were taken."""

    question: Question
    format: Format
    most: int
    skipped: int
    given: tuple[tuple[str, str], ...]

    @property
    def following(self) -> Sequence[tuple[str, str]]:
        """The parameters of the next page."""
        return [*self.given, ("after", _cursor(self.given, self.skipped + self.most))]


def asked_of(request: Request, caller: AccessToken, today: date) -> Asked:
    """What this token asks. Raises Problem: 422 for what is wrong or cannot be answered, 403 for what it may not see."""
    single, filters = split_parameters(request, _PLAIN)
    days = days_of(single, today)
    grain = choice(single, "grain", GRAINS, "day")
    group_by = tuple(_dimension("group_by", name) for name in _listed(single, "group_by", MAX_GROUPS))
    kept = filters_of(filters)
    expect_allowed(caller, [*group_by, *(dimension for dimension, _ in kept)])
    question = Question(
        days,
        grain,
        group_by,
        _metrics(single, [*group_by, *(dimension for dimension, _ in kept)]),
        kept,
        compare=None if "compare" not in single else choice(single, "compare", COMPARISONS, COMPARISONS[0]),
    )
    expect_answerable(question, caller.binding)
    question = replace(question, within=within(caller.binding), order=_order(single, question))
    fixed = {**single, "from": str(days.first), "to": str(days.last)}
    given = tuple(
        [(name, value) for name, value in fixed.items() if name != "after"]
        + [(f"{FILTER}{name}", value) for name, values in filters.items() for value in values]
    )
    format = queries.format_of(single)
    if format != "json" and (of_pages := [name for name in ("limit", "after") if name in single]):
        raise queries.wrong(of_pages[0], f"it with format=json only, since {format} has all rows", "both")
    return Asked(
        question, format, queries.limit_of(single, most=MAX_ROWS, default=DEFAULT_ROWS), _skipped(single, given), given
    )


def split_parameters(request: Request, plain: Collection[str]) -> tuple[dict[str, str], Values]:
    """The parameters that are given once, and the values of each filter. Raises Problem (422) for an unknown one."""
    single: list[tuple[str, str]] = []
    filters: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in request.query_params.multi_items():
        if name.startswith(FILTER):
            filters[name.removeprefix(FILTER)].append(value)
        else:
            single.append((name, value))
    return queries.each_once(single, plain, " or filter.NAME"), filters


def days_of(parameters: dict[str, str], today: date) -> Days:
    """`from` and `to`, both included."""
    return queries.days_of(parameters, today, most=MAX_DAYS)


def filters_of(filters: Values) -> tuple[tuple[Dimension, tuple[str, ...]], ...]:
    """The values of each dimension that is filtered by; an empty text stands for none, where there can be none."""
    found = []
    for name, values in filters.items():
        dimension = _dimension("filter", name)
        if len(values) > MAX_VALUES:
            raise queries.wrong(f"{FILTER}{name}", f"at most {MAX_VALUES} values", str(len(values)))
        for value in values:
            if value or not dimension.can_be_none:
                queries.identifier_of(f"{FILTER}{name}", value)
        found.append((dimension, tuple(dict.fromkeys(values))))
    return tuple(found)


def expect_allowed(caller: AccessToken, dimensions: Iterable[Dimension]) -> None:
    """Raises Problem (403) for users and tags without the scope; who is bound to users knows them."""
    if USERS_SCOPE in caller.scopes:
        return
    knows_users = caller.binding is not None and bool(caller.binding.bounds.users)
    for dimension in dimensions:
        if dimension.is_private and not (dimension.family == "user" and knows_users):
            came = ", ".join(caller.scopes)
            detail = f"{dimension.name}: expected a token with the scope {USERS_SCOPE}, came one with {came}"
            raise Problem(403, "forbidden", detail)


def expect_answerable(question: Question, binding: Binding | None) -> None:
    """Raises Problem: 422 for what no roll-up has, 403 for what none has of this binding alone."""
    try:
        question.plan  # noqa: B018  # it raises
    except CannotBeAnswered as error:
        raise Problem(422, "cannot-be-grouped", str(error)) from None
    if binding is None:
        return
    try:
        replace(question, within=within(binding)).plan  # noqa: B018
    except CannotBeAnswered as error:
        detail = (
            f"this token is bound to {binding.bounds.said}, and what is asked cannot be told apart by that: {error}"
        )
        raise Problem(403, "bound-token", detail) from None


def within(binding: Binding | None) -> tuple[tuple[Dimension, tuple[str, ...]], ...]:
    """What a binding may see, as filters."""
    if binding is None:
        return ()
    return tuple((_dimension("", _OF_BOUNDS[name]), values) for name, values in binding.bounds.members.items())


def _metrics(parameters: Mapping[str, str], dimensions: Iterable[Dimension]) -> tuple[Metric, ...]:
    if "metrics" not in parameters:
        names = ["errors"] if any(dimension.name == "error_type" for dimension in dimensions) else [*DEFAULT_METRICS]
    else:
        names = _listed(parameters, "metrics", len(METRICS))
    found = []
    for name in names:
        if (metric := METRIC_BY_NAME.get(name)) is None:
            raise queries.wrong("metrics", f"some of {', '.join(METRIC_BY_NAME)}", queries.shown(name))
        found.append(metric)
    return tuple(found)


def _order(parameters: Mapping[str, str], question: Question) -> Order | None:
    given = parameters.get("order")
    if given is None:
        # The largest first, or as time goes.
        return Order(question.metrics[0].name, True) if question.grain == "total" and question.group_by else None
    name = given.removeprefix("-")
    if name not in question.order_names:
        expected = f"one of {', '.join(question.order_names)}, with a - before it for the largest first"
        raise queries.wrong("order", expected, queries.shown(given))
    return Order(name, given.startswith("-"))


def _dimension(parameter: str, name: str) -> Dimension:
    if (found := dimension_of(name)) is None:
        expected = f"one of {', '.join(one.name for one in DIMENSIONS)} or tag:NAME"
        raise queries.wrong(parameter, expected, queries.shown(name))
    if found.family == "tag":
        queries.identifier_of(parameter, name)
    return found


def _listed(parameters: Mapping[str, str], name: str, most: int) -> list[str]:
    if (given := parameters.get(name)) is None:
        return []
    names = [part.strip() for part in given.split(",")]
    if not given.strip():
        raise queries.wrong(name, "names with commas between them", "none")
    if len(names) > most:
        raise queries.wrong(name, f"at most {most} names", str(len(names)))
    if len(set(names)) < len(names):
        raise queries.wrong(name, "each name once", queries.shown(given))
    return names


def choice(parameters: Mapping[str, str], name: str, known: tuple[Choice, ...], default: Choice) -> Choice:
    """The value of a parameter that has few. Raises Problem (422)."""
    given = parameters.get(name, default)
    for choice in known:
        if given == choice:
            return choice
    raise queries.wrong(name, f"one of {', '.join(known)}", queries.shown(given))


def _skipped(parameters: Mapping[str, str], given: tuple[tuple[str, str], ...]) -> int:
    if (cursor := parameters.get("after")) is None:
        return 0
    try:
        skipped, digest = queries.decoded_cursor(cursor, tuple[int, str])
        if digest != _digest(given) or not 0 <= skipped <= _MAX_SKIPPED:
            raise ValueError("the cursor of another question")
    except ValueError:
        expected = "the cursor that a page of this question gave"
        raise queries.wrong("after", expected, queries.shown(cursor)) from None
    return skipped


def _cursor(given: tuple[tuple[str, str], ...], skipped: int) -> str:
    return queries.encoded_cursor((skipped, _digest(given)))


def _digest(given: tuple[tuple[str, str], ...]) -> str:
    return sha256(msgspec.json.encode(sorted(given))).hexdigest()[:16]

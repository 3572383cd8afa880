"""What there is to see in the demo's data, as sentences: costs by model, a model without a price, a rise, a correction."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal

from usage_pipeline.events.pricing.names import nearest
from usage_pipeline.local.demo.changes import Mistake
from usage_pipeline.local.demo.costs import Costs
from usage_pipeline.local.traffic.services import LARGE_MODEL, MOVED_DAYS_AGO, MOVED_SERVICE, SMALL_MODEL
from usage_pipeline.texts import counted

_SHOWN_MODELS = 3
_Stored = Mapping[tuple[date, str, str, str, str], Mapping[str, Decimal]]


def findings(costs: Costs, mistake: Mistake | None, today: date) -> list[str]:
    """One sentence or more about each thing that is worth a look, with where to look. The numbers are those of this demo."""
    found = [*_by_model(costs.stored), *_unpriced(costs.stored), *_rise(costs.stored, today)]
    if mistake is not None:
        before, after = (one.units["input_tokens"] for one in (mistake.wrong, mistake.right))
        was, now = mistake.costs
        found.append(
            f"A correction: one event said {before:,} input tokens, since {mistake.reason}. Now it says {after:,}, and costs "
            f"{_usd(now)} instead of {_usd(was)}. ops.corrections has who changed it, when and why, under its event_id "
            f"{mistake.event_id}."
        )
    return found


def _by_model(stored: _Stored) -> Iterator[str]:
    by_model = _sums(stored, "cost_usd", lambda key: f"{key[3]}/{key[4]}")
    dearest = sorted(by_model.items(), key=lambda item: -item[1])[:_SHOWN_MODELS]
    if dearest:
        said = ", ".join(f"{model} {_usd(cost)}" for model, cost in dearest)
        yield (
            f"Cost by model: {_usd(sum(by_model.values(), Decimal(0)))} in all; most of it is for {said}. "
            "See reporting.cost_by_model_and_month, or the dashboard."
        )


def _unpriced(stored: _Stored) -> Iterator[str]:
    requests = _sums(stored, "unpriced_requests", lambda key: f"{key[3]}/{key[4]}")
    for name, count in sorted(requests.items()):
        if count:
            near = nearest(*name.split("/", 1))
            hint = f" The nearest name that has one is {near}." if near else ""
            yield (
                f"Without a price: {name}, {counted(int(count), 'request')}, not in any cost.{hint} "
                "docs/cost.md says how to give it one."
            )


def _rise(stored: _Stored, today: date) -> Iterator[str]:
    """Two weeks and the two before: both have the same days of the week."""
    moved_on = today - timedelta(days=MOVED_DAYS_AGO)
    length = timedelta(days=MOVED_DAYS_AGO + 1)
    after = _cost_of_service(stored, moved_on, today)
    before = _cost_of_service(stored, moved_on - length, moved_on - timedelta(days=1))
    # With a short RETENTION_DAYS, a part of the days before is not there, and nothing can be compared.
    is_whole = min((key[0] for key in stored), default=today) <= moved_on - length
    if is_whole and after > before:
        yield (
            f"The cost rose: the service {MOVED_SERVICE} cost {_usd(after)} in the last {length.days} days, and {_usd(before)} "
            f"in the {length.days} before. On {moved_on} it moved from {SMALL_MODEL} to {LARGE_MODEL}. "
            "docs/analysts.md has the query: Why did the cost rise?"
        )


def _cost_of_service(stored: _Stored, first: date, last: date) -> Decimal:
    return sum(
        (
            amounts["cost_usd"]
            for (day, _, service, _, _), amounts in stored.items()
            if service == MOVED_SERVICE and first <= day <= last
        ),
        Decimal(0),
    )


def _sums(stored: _Stored, measure: str, name: Callable[[tuple[date, str, str, str, str]], str]) -> dict[str, Decimal]:
    total: dict[str, Decimal] = defaultdict(Decimal)
    for key, amounts in stored.items():
        total[name(key)] += amounts[measure]
    return total


def _usd(amount: Decimal) -> str:
    return f"{amount:,.2f} USD"

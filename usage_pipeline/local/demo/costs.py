"""What the demo's events must cost, by the price package's own `calc_price` and the demo's own prices, beside what is stored.

None of the pipeline's prices or queries has a part in what is expected.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

import psycopg
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, PriceCalculation

from usage_pipeline.events.pricing.layers import layered
from usage_pipeline.events.pricing.lookups import is_looked_up
from usage_pipeline.events.pricing.own_prices import OwnPrice
from usage_pipeline.events.pricing.own_versions import own_prices
from usage_pipeline.local.demo.prices import OWN_PRICES, price_versions
from usage_pipeline.local.traffic.services import SentEvent
from usage_pipeline.settings import Settings
from usage_pipeline.storage.sql import load

# The package's prices are exact, and so is the roll-up. What is left is what a division may leave.
EXACTLY = Decimal("1e-9")
MEASURES = (
    "list_cost_usd",
    "reported_cost_usd",
    "cost_usd",
    "reported_requests",
    "unlisted_requests",
    "unpriced_requests",
)
# Where the package has no price of the tier yet: half, as docs/cost.md says with its source.
_BATCH, _HALF = "batch", Decimal("0.5")
_OWN = {(row.provider, row.model): row for row in OWN_PRICES}
_Key = tuple[date, str, str, str, str]
_Amounts = dict[str, Decimal]


@dataclass(frozen=True, slots=True)
class CostResult:
    """A measure over all events of the demo. `difference` sums up those of each day, team, service and model."""

    measure: str
    expected: Decimal
    stored: Decimal
    difference: Decimal


@dataclass(frozen=True, slots=True)
class Costs:
    """Both sides of each measure, and what is stored by day, team, service, provider and model.

    `uncompared_requests` are those whose day has another version of the package, or own prices of somebody for their model.
    """

    results: list[CostResult]
    stored: Mapping[_Key, Mapping[str, Decimal]] = field(repr=False)
    uncompared_requests: int = 0

    @property
    def difference(self) -> Decimal:
        return sum((result.difference for result in self.results), Decimal(0))


def compare_costs(connection: psycopg.Connection, mark: str, sent: Sequence[SentEvent], settings: Settings) -> Costs:
    """Compares what the events must cost with what the roll-ups by day have, to 1e-9 US dollars."""
    rows = connection.execute(load("local/select_stored_costs"), {"ids": f"%-{mark}"}).fetchall()
    stored: dict[_Key, _Amounts] = {tuple(row[:5]): dict(zip(MEASURES, row[5:], strict=True)) for row in rows}
    priced = _Priced(connection, sorted({one.day(settings.timezone) for one in sent}))
    expected: dict[_Key, _Amounts] = defaultdict(lambda: dict.fromkeys(MEASURES, Decimal(0)))
    skipped, uncompared = set[_Key](), 0
    for one in sent:
        day = one.day(settings.timezone)
        provider, model = one.event["provider"], one.event["model"]
        key = (day, one.event["team"], one.event["service"], provider, model)
        if not priced.is_known(day, provider, model, one.event.get("service_tier", "")):
            skipped.add(key)
            uncompared += 1
            continue
        for name, amount in _amounts(one, priced.own(day, provider, model)).items():
            expected[key][name] += amount
    compared = sorted((stored.keys() | expected.keys()) - skipped)
    nothing: _Amounts = dict.fromkeys(MEASURES, Decimal(0))
    pairs = [(expected.get(key, nothing), stored.get(key, nothing)) for key in compared]
    return Costs([_result(name, pairs) for name in MEASURES], stored, uncompared)


def list_cost(sent: SentEvent, own: OwnPrice | None) -> Decimal | None:
    """What the package says that an event costs at its time. None: it does not know the model.

    `own` is the own price that holds for it: an alias, or prices that are all there are.
    """
    if sent.event.get("error_type") and not sent.units.get("output_tokens"):
        return Decimal(0)
    tier = sent.event.get("service_tier", "")
    provider, model = sent.event["provider"], sent.event["model"]
    if own is not None and own.priced_as is not None:
        provider, _, model = own.priced_as.partition("/")
    try:
        if own is not None and own.prices:
            return _own_model_price(own, sent).total_price
        cost = _package_price(provider, model, tier, sent).total_price
        if tier == _BATCH and cost == _package_price(provider, model, "", sent).total_price:
            cost *= _HALF
    except LookupError:
        return None
    return cost


def _package_price(provider: str, model: str, tier: str, sent: SentEvent) -> PriceCalculation:
    return calc_price(
        Usage(**sent.units),
        model,
        provider_id=provider,
        genai_request_timestamp=sent.at,
        price_context={"service_tier": tier, "processing": tier} if tier else None,
    )


def _own_model_price(own: OwnPrice, sent: SentEvent) -> PriceCalculation:
    """By the package's own arithmetic, as a model of some provider with these prices."""
    provider = find_provider_by_id(get_snapshot().providers, "openai")
    if provider is None:
        raise LookupError("openai: expected this provider in the price package, came none")
    model = ModelInfo(own.model, ClauseEquals(own.model), prices=ModelPrice(**own.prices))
    return model.calc_price(Usage(**sent.units), provider, genai_request_timestamp=sent.at)


def _amounts(sent: SentEvent, own: OwnPrice | None) -> _Amounts:
    listed = list_cost(sent, own)
    reported = Decimal(sent.event["cost_usd"]) if "cost_usd" in sent.event else None
    charged = listed if reported is None else reported
    return {
        "list_cost_usd": listed or Decimal(0),
        "reported_cost_usd": reported or Decimal(0),
        "cost_usd": charged or Decimal(0),
        "reported_requests": Decimal(reported is not None),
        "unlisted_requests": Decimal(listed is None),
        "unpriced_requests": Decimal(charged is None),
    }


class _Priced:
    """Which prices hold on which day, as far as the demo can tell."""

    def __init__(self, connection: psycopg.Connection, days: Sequence[date]) -> None:
        self._versions = price_versions(connection, days)
        own_versions = {own for _, own in self._versions.values()}
        self._rows = {own: own_prices(connection, own) for own in own_versions}
        self._known: dict[tuple[str, int | None, str, str, str], bool] = {}

    def is_known(self, day: date, provider: str, model: str, tier: str) -> bool:
        """Whether the prices of the model on the day are those of the installed package and of the demo, and no others.

        A day without a version has none: that is a difference to tell.
        """
        version, own = self._versions.get(day, ("", None))
        key = (version, own, provider, model, tier)
        if key not in self._known:
            rows = layered(provider, model, tier, self._rows[own]).rows if version else ()
            self._known[key] = not version or (is_looked_up(version) and all(row in OWN_PRICES for row in rows))
        return self._known[key]

    def own(self, day: date, provider: str, model: str) -> OwnPrice | None:
        """The demo's own price of a model, if the day has it."""
        own = _OWN.get((provider, model))
        _, own_version = self._versions.get(day, ("", None))
        return own if own is not None and own in self._rows.get(own_version, ()) else None


def _result(name: str, pairs: Sequence[tuple[Mapping[str, Decimal], Mapping[str, Decimal]]]) -> CostResult:
    differences = [abs(expected[name] - stored[name]) for expected, stored in pairs]
    return CostResult(
        measure=name,
        expected=sum((expected[name] for expected, _ in pairs), Decimal(0)),
        stored=sum((stored[name] for _, stored in pairs), Decimal(0)),
        difference=sum((one for one in differences if one > EXACTLY), Decimal(0)),
    )

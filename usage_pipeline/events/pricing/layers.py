"""The price of each unit from its layers: own exact, own pattern, the package under an alias, the package. Pure; no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from genai_prices.validation import validate_priced_units

from usage_pipeline.events.pricing import names, package
from usage_pipeline.events.pricing.names import Found
from usage_pipeline.events.pricing.own_prices import MatchingRow, OwnPrice, layers_of, rows_of
from usage_pipeline.events.pricing.package import UnitPrice, scaled
from usage_pipeline.events.units.registry import REGISTRY


@dataclass(frozen=True, slots=True)
class LayeredPrice:
    """The price of a unit, and for people how it came about: `layer`, what it is `of`, and what it was multiplied with."""

    price: UnitPrice
    layer: str
    of: str
    factors: tuple[str, ...] = ()

    def times(self, factor: Decimal, why: str) -> "LayeredPrice":
        if factor == 1:
            return self
        return LayeredPrice(scaled(self.price, factor), self.layer, self.of, (*self.factors, f"{factor} ({why})"))


@dataclass(frozen=True, slots=True)
class Quote:
    """The prices of a model at a moment, by price key, and the package's model that they begin with, if there is one.

    `problem`: why no request can be priced by them.
    """

    prices: Mapping[str, LayeredPrice]
    found: Found | None
    has_tier: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class LayeredModel:
    """What is known of a (provider, model) in a tier: the package's model, and the rows of one's own for it."""

    provider: str
    model: str
    service_tier: str
    found: Found | None
    matching: tuple[MatchingRow, ...]

    @property
    def rows(self) -> list[OwnPrice]:
        """The rows of one's own that hold at some moment."""
        return [one.row for one in self.matching]

    def rows_at(self, at: datetime | None) -> list[OwnPrice]:
        """The rows of one's own that hold at a moment (None: before any), the lower one first."""
        return layers_of(self.matching, at)

    @property
    def all_found(self) -> list[Found]:
        """The package's models whose prices may be taken at some moment: under the name itself, and under aliases."""
        aliases = {row.priced_as for row in self.rows if row.priced_as is not None}
        found = [self.found, *(names.find_alias(alias) for alias in sorted(aliases))]
        return [one for one in found if one is not None]

    @property
    def tier(self) -> str:
        return self.service_tier.lower()


def layered(provider: str, model: str, service_tier: str, own: Sequence[OwnPrice]) -> LayeredModel:
    """Gathers the layers of a model as events name it."""
    found = names.find(provider, model)
    rows = rows_of(own, _own_spellings(provider, model, found), service_tier.lower())
    return LayeredModel(provider, model, service_tier, found, tuple(rows))


def quote(model: LayeredModel, at: datetime, own_at: datetime | None) -> Quote | None:
    """The prices at a moment; `own_at` is the moment for rows of one's own, None before any. None: nothing is known."""
    rows = model.rows_at(own_at)
    found, layer = _found_at(model, rows)
    listed = None if found is None else package.listed(found, at, model.tier)
    if found is None and not any(row.prices for row in rows):
        return None
    if found is not None and listed is None:
        return Quote({}, found, problem=f"the package cannot price any usage of {found.name}")
    prices: dict[str, LayeredPrice] = {}
    if found is not None and listed is not None:
        taken = listed.usual if listed.shipped else listed.prices
        prices = {key: LayeredPrice(price, layer, found.name) for key, price in taken.items()}
        if listed.shipped:
            why = f"{model.tier}, {listed.shipped.source}"
            prices = {key: one.times(listed.shipped.factor_of(key), why) for key, one in prices.items()}
    for row in rows:
        origin = "own pattern" if row.is_pattern else "own"
        if row.factor is not None:
            prices = {key: one.times(row.factor, f"{origin} {row.name}") for key, one in prices.items()}
        for key, stated in row.prices.items():
            prices[key] = LayeredPrice(stated, origin, row.name)
            if listed is not None and model.tier and not row.service_tier:
                prices[key] = prices[key].times(
                    listed.tier_factor(key), f"{model.tier}, as the package's own price changes"
                )
    has_tier = not model.tier or any(row.service_tier for row in rows) or (listed is not None and listed.has_tier)
    return Quote(prices, found, has_tier, _coverage_problem(prices))


def _found_at(model: LayeredModel, rows: Sequence[OwnPrice]) -> tuple[Found | None, str]:
    """The package's model, and the name of its layer. With an alias it is that one alone: two models' prices do not mix."""
    for row in reversed(rows):
        if row.priced_as is not None:
            return names.find_alias(row.priced_as), f"package, as {row.priced_as}"
    return model.found, "package"


def _coverage_problem(prices: Mapping[str, LayeredPrice]) -> str:
    """The package's own rule: what a priced unit is part of, and what two of them share, must have prices too."""
    try:
        validate_priced_units([REGISTRY.unit_for_price_key(key) for key in prices], REGISTRY)
    except ValueError as error:
        return str(error)
    return ""


def _own_spellings(provider: str, model: str, found: Found | None) -> list[tuple[str, str]]:
    """Rows of one's own hold for the name as it is, and for the one without prefixes that the package found, or might have."""
    if found is not None:
        return list(dict.fromkeys([(provider, model), found.spelling]))
    return [one for one in names.spellings(provider, model) if one[0] == provider]

"""What the price package says of a model: its prices at a moment in a tier, when they change, and what it charges at least.

All of it is asked of the package's own `calc_price`. Ours are only discounts of tiers that it has no prices of yet.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal

from genai_prices import Usage
from genai_prices.types import ModelPrice, StartDateConstraint, Tier, TieredPrices, TimeOfDateConstraint

from usage_pipeline.events.pricing.names import Found
from usage_pipeline.events.units.registry import REGISTRY, UNITS

# US dollars by the package's price key, for as many of the unit as that key says.
UnitPrice = Decimal | TieredPrices
UnitPrices = Mapping[str, UnitPrice]
_ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)
_HALF = Decimal("0.5")
_GOOGLE = "https://ai.google.dev/gemini-api/docs"
_OPENAI = "https://platform.openai.com/docs/guides"
# Half of the usual price, as these pages of the providers say. Tiers of others have no factor: Groq's flex costs as usual.
_HALF_PRICED = {
    ("anthropic", "batch"): "https://docs.anthropic.com/en/docs/build-with-claude/batch-processing",
    ("aws", "batch"): "https://docs.aws.amazon.com/bedrock/latest/userguide/capacity-limits-cost-optimization.html",
    ("azure", "batch"): "https://learn.microsoft.com/azure/ai-services/openai/how-to/batch",
    ("fireworks", "batch"): "https://docs.fireworks.ai/guides/batch-inference",
    ("google", "batch"): f"{_GOOGLE}/optimization",
    ("google", "flex"): f"{_GOOGLE}/optimization",
    ("groq", "batch"): "https://console.groq.com/docs/batch",
    ("mistral", "batch"): "https://docs.mistral.ai/capabilities/batch/",
    ("openai", "batch"): f"{_OPENAI}/batch",
    ("openai", "flex"): f"{_OPENAI}/flex-processing",
    ("together", "batch"): "https://docs.together.ai/docs/batch-inference",
}
# How providers call the tier of requests that ask for none.
_USUAL_TIERS = ("auto", "default", "on_demand", "standard", "standard_only")
# Searches and the fee of a request are not computed in the tier.
_NOT_DISCOUNTED = ("requests", "tool_calls")
# Long enough for any least charge to be behind.
_LONG_SECONDS = 10**6


@dataclass(frozen=True, slots=True)
class Shipped:
    """A discount of a tier that the package has no prices of. `source` is the provider's page that says so."""

    factor: Decimal
    source: str

    def factor_of(self, price_key: str) -> Decimal:
        family = REGISTRY.unit_for_price_key(price_key).dimensions.get("family")
        return Decimal(1) if family in _NOT_DISCOUNTED else self.factor


@dataclass(frozen=True, slots=True)
class Listed:
    """Prices of a model at a moment in a tier. `has_tier`: they are those of the tier, by the package or `shipped`."""

    prices: UnitPrices
    usual: UnitPrices
    has_tier: bool
    shipped: Shipped | None

    def tier_factor(self, price_key: str) -> Decimal:
        """What a usual price of one's own is multiplied with in the tier: as the package's price of the unit changes."""
        tiered, usual = self.prices.get(price_key), self.usual.get(price_key)
        if tiered is None or usual is None:
            return Decimal(1) if self.shipped is None else self.shipped.factor_of(price_key)
        before = _base(usual)
        return _base(tiered) / before if before else Decimal(1)


def listed(found: Found, at: datetime, tier: str) -> Listed | None:
    """The package's prices. None where it says itself that no usage can be priced by them."""
    usual = _unit_prices(found, at, "")
    if usual is None or not tier:
        return None if usual is None else Listed(usual, usual, has_tier=True, shipped=None)
    tiered = _unit_prices(found, at, tier)
    if tiered is None:
        return None
    if tiered != usual or _has_variant(found, at, tier):
        return Listed(tiered, usual, has_tier=True, shipped=None)
    source = _HALF_PRICED.get((found.provider.id, tier))
    if source is None:
        return Listed(usual, usual, has_tier=tier in _USUAL_TIERS, shipped=None)
    shipped = Shipped(_HALF, source)
    prices = {key: scaled(price, shipped.factor_of(key)) for key, price in usual.items()}
    return Listed(prices, usual, has_tier=True, shipped=shipped)


def turns(found: Found) -> tuple[set[datetime], set[time]]:
    """The moments, and the times of day in UTC, at which a price of the model may change."""
    prices = found.model.prices
    of_prices = [] if isinstance(prices, ModelPrice) else [one.constraint for one in prices]
    conditions = [*of_prices, *(one.constraint for one in found.model.price_variants or ())]
    starts = {one.start_date for one in conditions if isinstance(one, StartDateConstraint)}
    times = [one for one in conditions if isinstance(one, TimeOfDateConstraint)]
    return (
        {datetime.combine(day, time(0), UTC) for day in starts},
        {_in_utc(at) for one in times for at in (one.start_time, one.end_time)},
    )


def least_audio_seconds(found: Found, at: datetime) -> Decimal:
    """The seconds of audio that a request is charged for at least; 0 if the package charges what there are."""

    def cost(seconds: int) -> Decimal:
        usage = Usage(audio_seconds=seconds, input_audio_seconds=seconds) if seconds else Usage()
        return found.model.calc_price(usage, found.provider, genai_request_timestamp=at).total_price

    try:
        fee = cost(0)
        of_a_second = (cost(2 * _LONG_SECONDS) - cost(_LONG_SECONDS)) / _LONG_SECONDS
        # A price of an hour may have no end of decimals for a second: rounded, what is charged for one is one.
        least = round((cost(1) - fee) / of_a_second, 6) if of_a_second else Decimal(1)
    except ValueError:
        return Decimal(0)
    return least.normalize() if least > 1 else Decimal(0)


def scaled(price: UnitPrice, factor: Decimal) -> UnitPrice:
    if not isinstance(price, TieredPrices):
        return price * factor
    return TieredPrices(price.base * factor, [Tier(one.start, one.price * factor) for one in price.tiers])


def tier_starts(price: UnitPrice) -> Iterator[int]:
    """Input tokens above which the price is another one."""
    if isinstance(price, TieredPrices):
        yield from (one.start for one in price.tiers)


def flat(price: UnitPrice, input_tokens: int) -> Decimal:
    """The price for a request with so many input tokens."""
    if not isinstance(price, TieredPrices):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base


def _base(price: UnitPrice) -> Decimal:
    return price.base if isinstance(price, TieredPrices) else price


def _unit_prices(found: Found, at: datetime, tier: str) -> UnitPrices | None:
    try:
        calculated = found.model.calc_price(
            Usage(), found.provider, genai_request_timestamp=at, price_context=_context(tier)
        )
    except ValueError:
        return None
    keys = (unit.price_key for unit in UNITS.values())
    return {key: price for key in keys if (price := getattr(calculated.model_price, key)) is not None}


def _context(tier: str) -> dict[str, str]:
    """Providers call it differently, and the package has their words."""
    return {"service_tier": tier, "processing": tier, "speed": tier} if tier else {}


def _has_variant(found: Found, at: datetime, tier: str) -> bool:
    """Whether the package has prices of the tier, be they as usual. It takes those of its own models of a provider only."""
    context = _context(tier)
    is_its_own = any(one is found.model for one in found.provider.models)
    return is_its_own and any(
        all(context.get(name) == value for name, value in one.when.items())
        and (one.constraint is None or one.constraint.active(at))
        for one in found.model.price_variants or ()
    )


def _in_utc(at: time) -> time:
    return at if at.tzinfo is None else datetime.combine(_ANY_DAY, at).astimezone(UTC).time()

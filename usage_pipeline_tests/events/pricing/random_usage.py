"""Random usage of random models of the price package, priced by our rows and by the package itself.

`python -m usage_pipeline_tests.events.pricing.random_usage --usages 100000 --seed 1` compares so many, and prints what differs.
"""

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from itertools import combinations

from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ModelInfo, Provider
from genai_prices.units import UnitRegistry

from usage_pipeline.events.pricing.cells import cells
from usage_pipeline.events.pricing.layers import LayeredModel
from usage_pipeline.events.pricing.names import find_alias
from usage_pipeline.events.pricing.package import _HALF_PRICED
from usage_pipeline.events.pricing.prices import Price

REGISTRY = UnitRegistry(unit_data)
UNITS = REGISTRY.units
NAMED = (
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
TIERS = ("", "", "batch", "flex", "priority", "fast", "default", "standard")
FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)
# Thresholds of the package, and their neighbours.
SIZES = (
    0,
    1,
    31_999,
    32_001,
    100_000,
    100_001,
    128_000,
    128_001,
    199_999,
    200_000,
    200_001,
    256_001,
    272_000,
    272_001,
    2_000_000,
)
EXACTLY = Decimal("1e-12")
Counts = Mapping[str, int | Decimal | None]


@dataclass(frozen=True, slots=True)
class Case:
    """A usage of a model at a moment. A count of None cannot be known from what a client said."""

    provider: Provider
    model: ModelInfo
    at: datetime
    tier: str
    usage: Counts

    def __str__(self) -> str:
        return f"{self.provider.id}/{self.model.id} {self.at} {self.tier or 'no tier'} {dict(self.usage)}"


def all_models() -> list[tuple[Provider, ModelInfo]]:
    return [(provider, model) for provider in get_snapshot().providers for model in provider.models]


def random_case(chance: random.Random, provider: Provider, model: ModelInfo) -> Case:
    at = FIRST + (LAST - FIRST) * chance.random()
    if chance.random() < 0.2:
        at = at.replace(hour=chance.choice((0, 8, 16)), minute=chance.choice((0, 29, 30)), second=0, microsecond=0)
    return Case(provider, model, at, chance.choice(TIERS), random_usage(chance, provider, model))


def random_usage(chance: random.Random, provider: Provider, model: ModelInfo) -> Counts:
    """Counts that a request could have: wholes have those of their parts and some of their own. Some counts are not told."""
    names = [name for name in UNITS if name != "requests"]
    chosen = set(chance.sample(names, chance.choice((1, 2, 3, 5))))
    if chance.random() < 0.8:
        # Units that the model has a price of.
        priced = [unit for cell in cells_of(provider.id, model.id, "") for unit in cell.other_usd]
        chosen |= set(chance.sample(priced, min(len(priced), chance.randrange(4))))
    chosen |= {"input_tokens", "output_tokens"} if chance.random() < 0.9 else set()
    closed = _closed(chosen)
    alone = {name: _count(chance, name) for name in sorted(closed)}
    usage: dict[str, int | Decimal | None] = {
        name: sum(
            (alone[part] for part in closed if part == name or name in REGISTRY.ancestor_usage_keys(part)),
            0 * alone[name],
        )
        for name in sorted(closed)
    }
    for name in chance.sample(sorted(usage), min(len(usage), 2)) if chance.random() < 0.25 else ():
        # Nobody told it. Roots that are not told are nothing at all here: what is under them then has no whole.
        usage[name] = None
    return usage


def _closed(chosen: set[str]) -> set[str]:
    """With all that the units are parts of, and what each two of them share."""
    while True:
        more = {whole for name in chosen for whole in REGISTRY.ancestor_usage_keys(name)}
        for one, other in combinations(sorted(chosen | more), 2):
            join = REGISTRY.find_join(UNITS[one], UNITS[other])
            more |= {join.usage_key} if join else set()
        if more <= chosen:
            return chosen
        chosen = chosen | more


def _count(chance: random.Random, name: str) -> int | Decimal:
    if UNITS[name].dimensions.get("family") == "durations":
        # Some are less than what is charged at least.
        return Decimal(chance.choice((chance.randrange(1_000), chance.randrange(40_000)))) / 1_000
    if name == "input_tokens" and chance.random() < 0.5:
        return chance.choice(SIZES)
    return chance.choice((0, 1, 7, chance.randrange(10_000), chance.randrange(10**6)))


@cache
def cells_of(provider: str, model: str, tier: str) -> tuple[Price, ...]:
    # By its ids: what the package takes for a name of the model may be another text.
    return tuple(cells(LayeredModel(provider, model, tier, find_alias(f"{provider}/{model}"), ())))


def our_cost(prices: Sequence[Price], at: datetime, usage: Counts) -> Decimal | None:
    """The rule of the roll-ups, one request at a time. None: it cannot be priced."""
    tokens = usage.get("input_tokens") or 0
    holding = [price for price in prices if _holds(price, at, tokens)]
    assert len(holding) <= 1, f"expected prices that do not overlap, came {holding}"
    if not holding:
        return None
    [price] = holding
    others = {name: count for name, count in usage.items() if name not in ("input_tokens", "output_tokens")}
    if any(count is None and price.other_usd.get(name) for name, count in others.items()):
        return None
    if price.any_of is not None and not any(others.get(name) for name in price.any_of):
        return None
    if usage.get("input_tokens", 0) is None and (price.input_usd or price.input_tokens_until is not None):
        return None
    if usage.get("output_tokens", 0) is None and price.output_usd:
        return None
    if seconds := (others.get("audio_seconds") or others.get("input_audio_seconds")):
        charged = max(seconds, price.least_audio_seconds)
        if price.least_audio_seconds:
            others |= {"audio_seconds": charged, "input_audio_seconds": charged}
    million = tokens * price.input_usd + (usage.get("output_tokens") or 0) * price.output_usd
    million += sum((others.get(name) or 0) * getattr(price, f"{name.removesuffix('_tokens')}_usd") for name in NAMED)
    rest = sum(
        ((others.get(name) or 0) * usd for name, usd in price.other_usd.items() if name not in NAMED), Decimal(0)
    )
    return million / 1_000_000 + price.request_usd + rest


def _holds(price: Price, at: datetime, tokens: int | Decimal) -> bool:
    return (
        (price.valid_from is None or price.valid_from <= at)
        and (price.valid_until is None or at < price.valid_until)
        and price.daily_from <= at.time()
        and (price.daily_until is None or at.time() < price.daily_until)
        and price.input_tokens_from <= tokens
        and (price.input_tokens_until is None or tokens < price.input_tokens_until)
    )


def package_cost(case: Case) -> Decimal | None:
    """What the package says; None where it raises."""
    context = {"service_tier": case.tier, "processing": case.tier, "speed": case.tier} if case.tier else None
    try:
        calculated = case.model.calc_price(
            Usage(**{name: count for name, count in case.usage.items() if count is not None}),
            case.provider,
            genai_request_timestamp=case.at,
            price_context=context,
        )
    except ValueError:
        return None
    return calculated.total_price


def difference(case: Case) -> str:
    """Why the costs by our rows and by the package differ; empty: they do not."""
    return told_difference(case, our_cost(cells_of(case.provider.id, case.model.id, case.tier), case.at, case.usage))


def told_difference(case: Case, ours: Decimal | None) -> str:
    """The same for a cost that is ours."""
    prices, theirs = cells_of(case.provider.id, case.model.id, case.tier), package_cost(case)
    if _is_discounted_by_us(case):
        return ""
    if theirs is None or ours is None:
        return _explained_absence(case, prices, ours, theirs)
    return "" if abs(ours - theirs) <= EXACTLY else f"{case}: expected {theirs}, came {ours}"


def _is_discounted_by_us(case: Case) -> bool:
    """Batch and flex where the package has no price of them: ours is less, and says why."""
    if (case.provider.id, case.tier) not in _HALF_PRICED:
        return False
    return any(
        "factor" in why
        for price in cells_of(case.provider.id, case.model.id, case.tier)
        if (price.valid_from is None or price.valid_from <= case.at)
        and (price.valid_until is None or case.at < price.valid_until)
        for why in price.explained.values()
    )


def _explained_absence(case: Case, prices: Sequence[Price], ours: Decimal | None, theirs: Decimal | None) -> str:
    holding = [price for price in prices if _holds(price, case.at, case.usage.get("input_tokens") or 0)]
    if ours is None and theirs is None:
        return ""
    if ours is None:
        # The package takes what was not told for 0.
        is_untold = None in case.usage.values()
        is_nothing = bool(holding) and holding[0].any_of is not None
        return "" if is_untold or is_nothing else f"{case}: expected {theirs}, came no cost"
    unknown = [name for name, count in case.usage.items() if count is None]
    # A part that costs what its whole costs may be of any size.
    rates = {"input_tokens": holding[0].input_usd, "output_tokens": holding[0].output_usd, **holding[0].other_usd}
    return "" if unknown and not any(rates.get(name) for name in unknown) else f"{case}: expected no cost, came {ours}"


def compare(usages: int, seed: int) -> list[str]:
    """Compares so many random usages; each model is among them if there are enough."""
    chance = random.Random(seed)
    models = all_models()
    found = []
    for number in range(usages):
        if number % len(models) == 0:
            chance.shuffle(models)
        if told := difference(random_case(chance, *models[number % len(models)])):
            found.append(told)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m usage_pipeline_tests.events.pricing.random_usage", description=__doc__
    )
    parser.add_argument("--usages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    found = compare(options.usages, options.seed)
    print(f"{options.usages:,} random usages, seed {options.seed}: {len(found)} differ from the package")
    for told in found[:20]:
        print(told)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

"""What a request of the trace costs: by the package's own calc_price, and by hand with own prices or shipped discounts."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from usage_pipeline_tests.end_to_end.rigs.trace_usage import HOUSE_ALIAS
from usage_pipeline_tests.rigs.events import package_cost

MILLION = Decimal(10**6)
# Half of the usual price by the providers' own pages (docs/cost.md), where the package has no price of the tier.
HALF = {("openai", "batch"), ("openai", "flex"), ("anthropic", "batch"), ("google", "batch"), ("google", "flex")}
FACTOR, GOOGLE_FACTOR, UNCACHED_USD = Decimal("0.9"), Decimal("0.8"), Decimal("2.5")


def own_prices(google_from: datetime) -> str:
    """The file that is imported: an own model, an alias, a pattern with a factor, a unit of one model, a start."""
    return "\n".join(
        [
            "provider,model,priced_as,factor,valid_from,input_mtok,output_mtok",
            "house,house-model-1,,,,0.2,0.8",
            f"house,{HOUSE_ALIAS},openai/gpt-4o,,,,",
            f"openai,*,,{FACTOR},,,",
            f"anthropic,claude-sonnet-4-5,,,,{UNCACHED_USD},",
            f"google,gemini-2.5-flash,,{GOOGLE_FACTOR},{google_from.astimezone(UTC).isoformat()},,",
            "",
        ]
    )


def usual_cost(event: Mapping[str, Any], input_tokens: int, output_tokens: int) -> Decimal | None:
    """Without own prices. None: the package does not know the model."""
    tier = event.get("service_tier")
    cost = package_cost(event, input_tokens, output_tokens)
    if cost is None or (event["provider"], tier) not in HALF or _has_tier(event):
        return cost
    # Searches cost in each tier what they usually cost.
    searches = package_cost(_of_units(event, ("web_searches",)), 0, 0)
    assert searches is not None
    return searches + (cost - searches) / 2


def cost_with_own_prices(
    event: Mapping[str, Any], input_tokens: int, output_tokens: int, google_from: datetime
) -> Decimal | None:
    """With those of `own_prices`."""
    if event["model"] == "house-model-1":
        return (input_tokens * Decimal("0.2") + output_tokens * Decimal("0.8")) / MILLION
    if event["model"] == HOUSE_ALIAS:
        return usual_cost({**event, "provider": "openai", "model": "gpt-4o"}, input_tokens, output_tokens)
    cost = usual_cost(event, input_tokens, output_tokens)
    assert cost is not None
    if event["provider"] == "openai":
        return cost * FACTOR
    if event["provider"] == "google":
        return cost * GOOGLE_FACTOR if datetime.fromisoformat(event["event_time"]) >= google_from else cost
    # Only uncached input has another price, in the batch tier half of it, as the package's.
    usage = event.get("usage", {})
    uncached = input_tokens - usage.get("cache_read_tokens", 0) - usage.get("cache_write_tokens", 0)
    share = Decimal("0.5") if event.get("service_tier") == "batch" else Decimal(1)
    listed = package_cost(_of_units(event, ()), uncached, 0)
    assert listed is not None
    return cost - listed + uncached * UNCACHED_USD * share / MILLION


def _has_tier(event: Mapping[str, Any]) -> bool:
    """Whether the package has other prices of input in the tier."""
    plain = _of_units(event, ())
    usual = {name: value for name, value in plain.items() if name != "service_tier"}
    return package_cost(plain, 1_000, 0) != package_cost(usual, 1_000, 0)


def _of_units(event: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    usage = event.get("usage", {})
    return {**event, "usage": {name: usage[name] for name in names if name in usage}}

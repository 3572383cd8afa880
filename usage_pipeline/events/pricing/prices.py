"""A price as a row of `analytics.model_prices`: what one more of each unit adds to the cost of a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from importlib.metadata import version

PACKAGE = "genai-prices"
_MIDNIGHT = time(0, 0)


@dataclass(frozen=True, slots=True)
class Price:
    """What one more of each count adds, within half-open bounds (None: no bound). So a cost is the sum over the counts.

    Each `*_usd` is US dollars per million of the tokens in its name, and `request_usd` is per request. Cached tokens are among
    the input tokens, so `cache_read_usd` is the difference to them; the same holds for each kind of tokens. `other_usd` is by
    unit, for all that has a price beyond input, output and requests, in US dollars for one of it; units with a field of their
    own repeat it. `any_of`: units of which a request must have one to be priced; None: it is priced without. `explained` is
    for people: by price key, what the source says, and which layer it is from.

    `daily_from` and `daily_until` are times of day in UTC; `input_tokens_from` and `_until` are the input tokens of a
    request, which choose the price of all that it has.
    """

    provider: str
    model: str
    input_usd: Decimal
    output_usd: Decimal
    request_usd: Decimal = Decimal(0)
    service_tier: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    daily_from: time = _MIDNIGHT
    daily_until: time | None = None
    input_tokens_from: int = 0
    input_tokens_until: int | None = None
    cache_read_usd: Decimal = Decimal(0)
    cache_write_usd: Decimal = Decimal(0)
    output_reasoning_usd: Decimal = Decimal(0)
    input_audio_usd: Decimal = Decimal(0)
    output_audio_usd: Decimal = Decimal(0)
    input_image_usd: Decimal = Decimal(0)
    output_image_usd: Decimal = Decimal(0)
    other_usd: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    any_of: tuple[str, ...] | None = None
    least_audio_seconds: Decimal = Decimal(0)
    explained: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)


def package_version() -> str:
    """The installed package with its version: the price version of days without own prices."""
    return f"{PACKAGE} {version(PACKAGE)}"

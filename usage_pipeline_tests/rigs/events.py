"""Usage events as clients send them, and what they mean by the contracts and the price package, without any code of ours."""

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from genai_prices import Usage, calc_price

NOW = datetime.now(UTC).replace(microsecond=0)
# More tokens than any tier begins at, for counts that nobody told.
_ANY_NUMBER = 10_000_000
# What an event with so many input and output tokens costs.
CostOf = Callable[[Mapping[str, Any], int, int], Decimal | None]


def event(**changes: Any) -> dict[str, Any]:
    """A valid event of an hour ago, with changes; a member that is changed to `...` is left out."""
    members = {
        "event_id": str(uuid.uuid4()),
        "event_time": (NOW - timedelta(hours=1)).isoformat(),
        "user_id": "user-1",
        "team": "search",
        "service": "chat",
        "provider": "openai",
        "model": "gpt-4o",
        "input_tokens": 100,
        "output_tokens": 20,
        "latency_ms": 350,
        "status_code": 200,
        **changes,
    }
    return {name: value for name, value in members.items() if value is not ...}


def archive(event_id: str, **changes: Any) -> dict[str, Any]:
    """A valid archive of an event, with changes."""
    members = {
        "event_id": event_id,
        "user_id": "user-1",
        "service": "chat",
        "prompt_full": "What is a ledger?",
        "response_full": "A book of accounts.",
        **changes,
    }
    return {name: value for name, value in members.items() if value is not ...}


def as_items(*members: dict[str, Any]) -> list[bytes]:
    """Each as the bytes of a JSON object."""
    return [json.dumps(item).encode() for item in members]


def is_error(event: Mapping[str, Any]) -> bool:
    """§2: it names a kind of error, or its status is 400 or more; §8.1: an empty text is the same as none."""
    return bool(event.get("error_type")) or (event.get("status_code") or 0) >= 400


def total_tokens(event: Mapping[str, Any]) -> int:
    """§8.1: as given; without a total the sum, and with only one of input and output that one. §2: the default is 0."""
    return event.get("total_tokens") or (event.get("input_tokens") or 0) + (event.get("output_tokens") or 0)


def list_cost(event: Mapping[str, Any], cost_of: CostOf | None = None) -> Decimal | None:
    """§8.2: what calc_price (or `cost_of`) says; 0 for a failed request without output. None: it depends on what is untold."""
    cost_of = cost_of or package_cost
    entered, left = event.get("input_tokens"), event.get("output_tokens")
    if is_error(event) and not left:
        return Decimal(0)
    untold = total_tokens(event) - (entered or 0) - (left or 0)
    if entered is None and left is None:
        untold = _ANY_NUMBER
    usages = [(entered or 0, left or 0)]
    if entered is None:
        usages.append((untold, left or 0))
    if left is None:
        usages.append((entered or 0, untold))
    costs = {cost_of(event, *usage) for usage in usages}
    return costs.pop() if len(costs) == 1 else None


def package_cost(event: Mapping[str, Any], input_tokens: int, output_tokens: int) -> Decimal | None:
    """What calc_price says of an event with so many tokens, its units among them. None: the model is unknown."""
    tier = event.get("service_tier")
    try:
        return calc_price(
            Usage(input_tokens=input_tokens, output_tokens=output_tokens, **event.get("usage", {})),
            event["model"],
            provider_id=event["provider"],
            genai_request_timestamp=datetime.fromisoformat(event["event_time"]),
            price_context={"service_tier": tier, "processing": tier, "speed": tier} if tier else None,
        ).total_price
    except LookupError:
        return None

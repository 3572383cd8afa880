"""What clients tell of a request beside its tokens, at random: units, tiers, costs, tags, ids of their own, odd members."""

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

Members = dict[str, Any]
# An own price has it as another model, see trace_prices.
HOUSE_ALIAS = "house-model-2"
PROJECTS = ("apollo", "gemini", "mercury", "")


def random_event(event: Members, chance: random.Random, number: int) -> Members:
    """The event with members by chance. Parts keep within their wholes, and what two of them share is told."""
    event = event | _oddness(chance)
    if event["model"] == "house-model-1" and chance.random() < 0.5:
        event |= {"model": HOUSE_ALIAS}
    if chance.random() < 0.2:
        event |= {"event_id": f"request-{number}", "source": chance.choice(("gateway", "batch-runner"))}
    event |= {"usage": {name: count for name, count in _units(event, chance).items() if count}}
    if chance.random() < 0.15:
        event |= {"service_tier": chance.choice(("priority", "batch", "flex"))}
    if chance.random() < 0.1:
        event |= {"cost_usd": str(Decimal(chance.randint(0, 10**7)).scaleb(-9))}
    if chance.random() < 0.2:
        event |= {"api_key_id": f"key-{chance.randint(1, 5)}"}
    if chance.random() < 0.9:
        # Of one tag, nearly each event has a value of its own.
        event |= {"tags": {"project": chance.choice(PROJECTS), "ticket": f"ticket-{number:06d}", "color": "red"}}
    if _has_both(event) and event["output_tokens"] and not event["usage"] and chance.random() < 0.1:
        # For Google they are thoughts, for others nobody knows what.
        event |= {"total_tokens": event["input_tokens"] + event["output_tokens"] + chance.randint(1, 500)}
    return event


def other_version(event: Members, chance: random.Random, number: int) -> Members:
    """The same id with other content: other counts, and now and then another time, model, user, or team."""
    kept = ("event_id", "source", "event_time", "user_id", "team", "service", "provider", "model", "status_code")
    other = {name: event[name] for name in (*kept, "latency_ms") if name in event}
    other |= {"input_tokens": chance.randint(1, 9_000), "output_tokens": chance.randint(1, 2_000)}
    if chance.random() < 0.5:
        other |= {"event_time": (_at(event) - timedelta(hours=chance.randint(1, 30))).isoformat()}
    if chance.random() < 0.3:
        other |= {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    if chance.random() < 0.3:
        other |= {"user_id": f"user-{chance.randint(1, 60):02d}", "team": "research"}
    return _with_id(random_event(other, chance, number), event)


def _with_id(new: Members, old: Members) -> Members:
    without = {name: value for name, value in new.items() if name not in ("event_id", "source")}
    return without | {name: old[name] for name in ("event_id", "source") if name in old}


def _at(event: Members) -> datetime:
    return datetime.fromisoformat(event["event_time"])


def _has_both(event: Members) -> bool:
    return event.get("input_tokens") is not None and event.get("output_tokens") is not None


def _oddness(chance: random.Random) -> Members:
    """Members as some clients send them: an empty text for no error, counts of one kind alone, errors without output."""
    kinds: list[Members] = [
        {"error_type": ""},
        {"output_tokens": None},
        {"input_tokens": None},
        {"input_tokens": None, "output_tokens": None, "total_tokens": 70},
        {"status_code": 429, "output_tokens": 0},
        {"status_code": 499, "output_tokens": None},
    ]
    return chance.choice(kinds) if chance.random() < 0.1 else {}


def _units(event: Members, chance: random.Random) -> dict[str, int | float]:
    usage: dict[str, int | float] = {}
    entered, left = event.get("input_tokens") or 0, event.get("output_tokens") or 0
    kind = chance.random() if entered else 1
    if kind < 0.35:
        read = chance.randint(0, entered)
        written = chance.randint(0, entered - read)
        usage |= {"cache_read_tokens": read, "cache_write_tokens": written}
        if chance.random() < 0.5:
            for_an_hour = chance.randint(0, written)
            usage |= {"cache_write_1h_tokens": for_an_hour, "cache_write_5m_tokens": written - for_an_hour}
    elif kind < 0.45:
        shared = chance.randint(1, entered)
        read = chance.randint(shared, entered)
        usage |= {"cache_read_tokens": read, "input_audio_tokens": shared + chance.randint(0, entered - read)}
        usage |= {"cache_audio_read_tokens": shared}
    elif kind < 0.55:
        usage |= {chance.choice(("input_audio_tokens", "input_image_tokens")): chance.randint(1, entered)}
    if left and chance.random() < 0.35:
        names = ("output_reasoning_tokens", "output_reasoning_tokens", "output_audio_tokens", "output_image_tokens")
        usage |= {chance.choice(names): chance.randint(1, left)}
    if chance.random() < 0.1:
        usage |= {"web_searches": chance.randint(1, 3)}
    if chance.random() < 0.02:
        usage |= {"audio_seconds": chance.randint(1, 99) / 2}
    return usage

"""Made-up services: the same for a seed, in their days, and each event says what it used as its provider's API would."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from genai_prices import extract_usage

from usage_pipeline.local.traffic.services import (
    ALIASED,
    LARGE_MODEL,
    MOVED_DAYS_AGO,
    MOVED_SERVICE,
    OWN_PRICED,
    SMALL_MODEL,
    UNPRICED,
    SentEvent,
    made_up_usage,
)

NOW = datetime(2026, 11, 28, 15, 30, tzinfo=UTC)
DAYS = [date(2026, 10, 15) + timedelta(days=ahead) for ahead in range(45)]
ZONE = ZoneInfo("UTC")
FLAVORS = {"openai": "chat", "anthropic": "default", "google": "default"}


def made_up(seed: int = 7, **changes: Any) -> list[SentEvent]:
    return made_up_usage(seed, 3_000, DAYS, **{"now": NOW, "zone": ZONE, "mark": "1", **changes})


EVENTS = made_up()


def model_of(sent: SentEvent) -> tuple[str, str]:
    return sent.event["provider"], sent.event["model"]


def test_the_same_seed_gives_the_same_events() -> None:
    assert made_up() == EVENTS
    assert {one.event["event_id"] for one in made_up(8)}.isdisjoint(one.event["event_id"] for one in EVENTS)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def test_they_are_in_their_days_and_in_order_and_the_last_one_is_of_now(zone: str) -> None:
    here = ZoneInfo(zone)
    days = [NOW.astimezone(here).date() - timedelta(days=ago) for ago in range(44, -1, -1)]
    events = made_up_usage(7, 2_000, days, now=NOW, zone=here, mark="1")
    assert {one.day(here) for one in events} == set(days)
    assert [one.at for one in events] == sorted(one.at for one in events)
    assert events[-1].at == NOW


def test_a_day_that_has_just_begun_has_an_event() -> None:
    midnight = datetime(2026, 11, 28, tzinfo=UTC)
    assert made_up(now=midnight)[-1].at == midnight


def test_there_is_less_at_weekends_and_nothing_but_reports_at_night() -> None:
    by_weekday = Counter(one.at.weekday() for one in EVENTS)
    assert max(by_weekday[5], by_weekday[6]) < min(by_weekday[day] for day in range(5)) / 2
    assert {one.event["service"] for one in EVENTS if one.at.hour < 6} == {"reports"}


def test_each_kind_of_usage_is_there() -> None:
    used = Counter(unit for one in EVENTS for unit, count in one.units.items() if count)
    units = (
        "cache_read_tokens",
        "cache_write_tokens",
        "output_reasoning_tokens",
        "input_audio_tokens",
        "output_audio_tokens",
    )
    assert min(used[unit] for unit in units) > 10
    members = Counter(name for one in EVENTS for name in one.event)
    assert (
        min(members[name] for name in ("provider_usage", "usage", "service_tier", "cost_usd", "tags", "error_type"))
        > 10
    )
    assert {one.event["provider"] for one in EVENTS if "provider_usage" in one.event} == {
        "openai",
        "anthropic",
        "google",
    }
    models = Counter(map(model_of, EVENTS))
    assert min(models[name] for name in (ALIASED, OWN_PRICED, UNPRICED)) > 10


def test_a_provider_s_own_object_means_the_same_counts_to_the_price_package() -> None:
    checked = 0
    for one in EVENTS:
        if told := one.event.get("provider_usage"):
            provider = one.event["provider"]
            answer = {"usageMetadata" if provider == "google" else "usage": told, "model": one.event["model"]}
            found = extract_usage(answer, provider_id=provider, api_flavor=FLAVORS[provider]).usage
            counts = {unit: count for unit, count in vars(found).items() if count and "text" not in unit}
            assert counts == {unit: count for unit, count in one.units.items() if count}
            checked += 1
    assert checked > 1_000


def test_one_service_moves_to_a_dearer_model_on_one_day() -> None:
    moved_on = DAYS[-1] - timedelta(days=MOVED_DAYS_AGO)
    chats = [one for one in EVENTS if one.event["service"] == MOVED_SERVICE]
    assert {one.event["model"] for one in chats if one.day(ZONE) < moved_on} == {SMALL_MODEL}
    assert {one.event["model"] for one in chats if one.day(ZONE) >= moved_on} == {LARGE_MODEL}

"""A client's counts: what follows from them, and that they cost what the price package says for what the client sent."""

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, types
from genai_prices.data_snapshot import get_snapshot
from hypothesis import assume, given
from hypothesis import strategies as st

from usage_pipeline.events.units.counts import Count, as_json, columns_of, count_of, normalised, sent_counts
from usage_pipeline.events.units.registry import FRACTIONAL_UNITS, NAMED_UNITS, ROOTS, SENT_UNITS, UNITS
from usage_pipeline.values import Malformed

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
PROVIDERS = get_snapshot().providers
# Models with the same prices are one, so that those with many units are drawn as often as those with two.
MODELS = {
    frozenset(found.get_prices(AT).__dict__): (provider, found) for provider in PROVIDERS for found in provider.models
}
MODEL_PAIRS = [MODELS[keys] for keys in sorted(MODELS, key=sorted)]


@st.composite
def usages(draw: st.DrawFn) -> dict[str, object]:
    """Parts of a size that fits into their wholes often, and often does not."""
    units = draw(st.lists(st.sampled_from(sorted(SENT_UNITS - set(ROOTS))), max_size=6, unique=True))
    counts: dict[str, object] = {unit: draw(st.integers(0, 8)) for unit in units}
    for unit in units:
        if unit in FRACTIONAL_UNITS and draw(st.booleans()):
            counts[unit] = draw(st.integers(0, 80)) / 10
    for root in ROOTS:
        if draw(st.integers(0, 4)):
            counts[root] = draw(st.sampled_from([0, 5, 10, 20, 40]))
    return counts


def cost(provider: types.Provider, model: types.ModelInfo, usage: Mapping[str, object]) -> Decimal:
    """What the package says; it raises ValueError for what it cannot know."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return model.calc_price(Usage.from_raw(usage), provider, genai_request_timestamp=AT).total_price


@given(usages(), st.sampled_from(MODEL_PAIRS))
def test_what_is_stored_costs_what_was_sent(
    usage: dict[str, object], pair: tuple[types.Provider, types.ModelInfo]
) -> None:
    try:
        counts = normalised(sent_counts(usage))
    except Malformed:
        assume(False)
        return
    known = {unit: count for unit, count in counts.items() if count is not None}
    try:
        right = cost(*pair, usage)
    except ValueError:
        return
    assert cost(*pair, known) == right


@given(usages(), st.sampled_from(MODEL_PAIRS))
def test_what_the_package_misses_is_filled_or_unknown_and_what_it_refuses_is_refused(
    usage: dict[str, object], pair: tuple[types.Provider, types.ModelInfo]
) -> None:
    try:
        cost(*pair, usage)
    except ValueError as fault:
        reason = str(fault)
    else:
        return
    if not reason.startswith("Missing usage for "):
        assert "exceed" in reason
        with pytest.raises(Malformed, match="expected"):
            normalised(sent_counts(usage))
        return
    missing = reason.split(":")[0].removeprefix("Missing usage for ")
    try:
        counts = normalised(sent_counts(usage))
    except Malformed:
        return
    assert missing in ROOTS or missing in counts
    if missing in ROOTS:
        assert missing not in counts, "nothing is made up for input and output"


@given(usages())
def test_what_the_client_told_stays(usage: dict[str, object]) -> None:
    told = sent_counts(usage)
    try:
        counts = normalised(told)
    except Malformed:
        assume(False)
        return
    assert {unit: counts[unit] for unit, count in told.items() if count} == {
        unit: count for unit, count in told.items() if count
    }


@given(usages())
def test_columns_and_the_others_have_every_count_once(usage: dict[str, object]) -> None:
    try:
        counts = normalised(sent_counts(usage))
    except Malformed:
        assume(False)
        return
    named, others = columns_of(counts)
    told = {unit: count for unit, count in zip(NAMED_UNITS, named, strict=True) if count is not None}
    assert told.keys().isdisjoint(others)
    assert told | others | {root: counts[root] for root in ROOTS if root in counts} == counts


@pytest.mark.parametrize(
    ("sent", "right"),
    [
        ({"cache_write_5m_tokens": 3}, {"cache_write_5m_tokens": 3, "cache_write_tokens": 3}),
        (
            {"cache_audio_read_tokens": 3, "cache_text_read_tokens": 4},
            {
                "cache_audio_read_tokens": 3,
                "cache_text_read_tokens": 4,
                "cache_read_tokens": 7,
                "input_audio_tokens": 3,
                "input_text_tokens": 4,
            },
        ),
        (
            {"cache_write_5m_tokens": 5, "cache_text_write_tokens": 3},
            {
                "cache_write_5m_tokens": 5,
                "cache_text_write_tokens": 3,
                "cache_write_tokens": None,
                "cache_text_write_5m_tokens": None,
                "input_text_tokens": 3,
            },
        ),
        (
            {"cache_read_tokens": 5, "input_audio_tokens": 3},
            {"cache_read_tokens": 5, "input_audio_tokens": 3, "cache_audio_read_tokens": None},
        ),
        (
            {"cache_read_tokens": 5, "input_audio_tokens": 3, "cache_audio_read_tokens": 0},
            {"cache_read_tokens": 5, "input_audio_tokens": 3, "cache_audio_read_tokens": 0},
        ),
        ({"input_tokens": 9, "cache_read_tokens": 0, "web_searches": None}, {"input_tokens": 9}),
        ({"audio_seconds": 12.5}, {"audio_seconds": Decimal("12.5")}),
        ({"audio_seconds": 12.0}, {"audio_seconds": 12}),
        (
            {"audio_seconds": 0.3, "input_audio_seconds": 0.1, "output_audio_seconds": 0.2},
            {
                unit: Decimal(text)
                for unit, text in zip(
                    ("audio_seconds", "input_audio_seconds", "output_audio_seconds"), ("0.3", "0.1", "0.2"), strict=True
                )
            },
        ),
    ],
)
def test_what_follows(sent: dict[str, object], right: dict[str, Count | None]) -> None:
    assert normalised(sent_counts(sent)) == right


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (
            {"input_tokens": 5, "cache_read_tokens": 128_000},
            "usage.cache_read_tokens: expected at most input_tokens = 5, of which it is a part, came 128000. "
            "Anthropic's own input_tokens leaves cached tokens out",
        ),
        (
            {"input_tokens": 10, "cache_read_tokens": 6, "cache_write_tokens": 6},
            "input_tokens = 10, .*came 12 together",
        ),
        (
            {"input_tokens": 10, "cache_read_tokens": 6, "input_audio_tokens": 6, "cache_audio_read_tokens": 1},
            "input_tokens = 10, .*came 11 together",
        ),
        (
            {"input_tokens": 10, "cache_read_tokens": 6, "cache_write_tokens": 6, "input_audio_tokens": 6},
            "input_tokens = 10, .*came 12 together",
        ),
        ({"output_tokens": 10, "output_reasoning_tokens": 11}, "output_tokens = 10.*Google's own candidates leave"),
        ({"cache_write_tokens": 0, "cache_write_5m_tokens": 1}, "cache_write_tokens = 0"),
        (
            {"cached_tokens": 1},
            r"expected units of the price package, came 'cached_tokens' \(nearest: cache_read_tokens",
        ),
        ({"prompt_tokens": 1}, "belongs into provider_usage"),
        ({"requests": 1}, "each event is one request"),
        ({"web_searches": 1.5}, "usage.web_searches: expected a whole number, came 1.5"),
        ({"web_searches": "1"}, "usage.web_searches: expected a number, came '1'"),
        ({"web_searches": True}, "usage.web_searches: expected a number, came bool"),
        ({"web_searches": {"a": 1}}, "usage.web_searches: expected a number, came dict"),
        ({"web_searches": -1}, "usage.web_searches: expected 0 to"),
        ({"web_searches": 2**63}, "usage.web_searches: expected 0 to"),
        ({"audio_seconds": -0.5}, "usage.audio_seconds: expected 0 to"),
        ({"audio_seconds": 1e300}, "usage.audio_seconds: expected so large a number in digits alone"),
        ({"cache_write_5m_tokens": 2**63 - 1, "cache_write_1h_tokens": 1}, "usage.cache_write_tokens: expected 0 to"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(sent: dict[str, object], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        normalised(sent_counts(sent))


def test_numbers_are_read_as_json_writes_them() -> None:
    assert [count_of("n", number) for number in (10, 10.0, 1e3, Decimal("7.0"))] == [10, 10, 1000, 7]
    assert count_of("n", 0.1 + 0.2, has_fractions=True) == Decimal("0.3"), "to the nanosecond"
    for odd in (float("nan"), float("inf"), 2.0**53):
        with pytest.raises(Malformed):
            count_of("n", odd)


def test_counts_become_json_of_numbers() -> None:
    assert as_json({"web_searches": 2, "audio_seconds": Decimal("12.5"), "cache_audio_read_tokens": None}) == (
        '{"audio_seconds":12.5,"cache_audio_read_tokens":null,"web_searches":2}'
    )


def test_named_units_are_units_of_the_package() -> None:
    assert set(NAMED_UNITS) < SENT_UNITS == set(UNITS) - {"requests"}

"""Names of Redis keys: a claim can be read back, and shares the Redis Cluster slot of its live key."""

from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot
from usage_recorder import keys as recorder_keys

from usage_pipeline import redis_keys as keys

BATCH = "1735689600000-00c0ffee00"
# Braces are what decides about slots, so they come often.
IDS = st.lists(st.one_of(st.sampled_from([b"{", b"}", b"{}", b":", b"="]), st.binary(max_size=4))).map(b"".join)
PREFIXES = st.sampled_from([b"apikey:", b"provider:", b"token_usage:", b"event_queue"])


@given(PREFIXES, IDS)
@example(b"apikey:", b"plain")
@example(b"apikey:", b"{tag}")
@example(b"apikey:", b"}before{tag}")
@example(b"apikey:", b"{}empty{tag}")
@example(b"apikey:", b"open{")
@example(b"apikey:", b"closed}")
@example(b"apikey:", b"{{nested}}")
@example(b"apikey:", b"\xff\x00")
def test_a_claim_is_read_back_and_stays_in_the_slot_of_its_key(prefix: bytes, middle: bytes) -> None:
    key = prefix + middle + b":metrics"
    claimed = keys.claim(BATCH, key)
    assert keys.parse_claim(claimed) == (BATCH, key)
    assert key_slot(claimed) == key_slot(key)


@given(PREFIXES, IDS, IDS)
def test_two_keys_never_share_a_claim(prefix: bytes, one: bytes, other: bytes) -> None:
    assert (keys.claim(BATCH, prefix + one) == keys.claim(BATCH, prefix + other)) == (one == other)


@given(st.binary())
def test_a_claim_begins_with_its_batch_so_that_batches_never_share_one(suffix: bytes) -> None:
    assert keys.claim(BATCH, b"apikey:" + suffix) != keys.claim("1735689600000-ffffffffff", b"apikey:" + suffix)


@pytest.mark.parametrize(
    "name",
    [
        b"apikey:1:metrics",
        b"usage_pipeline:claim:",
        b"usage_pipeline:claim:no_separator",
        b"usage_pipeline:claim:batch:",
        b"usage_pipeline:claim:\xff:{apikey:1:metrics}",
    ],
)
def test_a_name_that_is_no_claim_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # UnicodeDecodeError is one too
        keys.parse_claim(name)


def test_names_are_those_of_the_contracts() -> None:
    day = date(2025, 3, 9)
    assert recorder_keys.api_key_metrics("a:1") == "apikey:a:1:metrics"
    assert recorder_keys.api_key_timeline("a") == "apikey:a:timeline"
    assert recorder_keys.provider_metrics("a", "s3") == "provider:a:s3:metrics"
    assert recorder_keys.token_usage("t", "host:80") == "token_usage:t:host:80"
    assert recorder_keys.merchant_counter("m:1", day, "orders") == "usage:m:1:2025-03-09:orders"
    assert keys.token_cache("up_12345") == "api_token:up_12345"
    assert recorder_keys.recorded("api_key", day) == "usage_pipeline:recorded:api_key:2025-03-09"
    assert recorder_keys.quota("a") == "usage_pipeline:quota:a"
    assert recorder_keys.budget("team=a:b") == "usage_pipeline:budget:team=a:b"
    assert recorder_keys.budgets_as_of() == "usage_pipeline:budget:as_of"


@pytest.mark.parametrize(
    "name",
    [
        recorder_keys.touched("api_key"),
        keys.taken("api_key"),
        keys.open_batches("api_key"),
        keys.scan_pause("api_key"),
        recorder_keys.quota_used("a", date(2025, 3, 9)),
        recorder_keys.budget("all"),
        keys.BUDGET_SCOPES,
        keys.unlinked(BATCH),
        keys.claim(BATCH, b"apikey:1:metrics").decode(),
        keys.BARRIER,
    ],
)
def test_what_we_write_for_ourselves_is_in_our_namespace(name: str) -> None:
    assert name.startswith("usage_pipeline:")

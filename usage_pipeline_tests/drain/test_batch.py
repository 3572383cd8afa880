"""Batches: ids carry their time, and dead letters keep their raw bytes exactly."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.drain.batch import (
    Claimed,
    Origin,
    WrongType,
    claimed_ms,
    dead_letter,
    new_batch_id,
    parse_batch,
    raw_value,
)
from usage_pipeline.drain.families import API_KEY, TOKEN, Family
from usage_pipeline.values import PossibleTimes

MS = 1_735_732_800_000


def parsed(family: Family, *claims: Claimed):
    origin = Origin.of_claim(new_batch_id(MS), "s", is_uncertain=False)
    return parse_batch(family, origin, list(claims), times=PossibleTimes(180))


@given(st.integers(0, 9_999_999_999_998))
def test_a_batch_id_carries_its_time_and_sorts_by_it(ms: int) -> None:
    assert claimed_ms(new_batch_id(ms)) == ms
    assert new_batch_id(ms) < new_batch_id(ms + 1)


def test_batch_ids_of_one_millisecond_differ() -> None:
    assert len({new_batch_id(MS) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("batch_id", ["", "1735732800000", "soon-00", "-1-00"])
def test_an_id_that_we_did_not_make_is_refused(batch_id: str) -> None:
    with pytest.raises(ValueError, match="expected a batch id"):
        claimed_ms(batch_id)


@given(st.lists(st.tuples(st.binary(), st.binary()), min_size=1).map(lambda pairs: [b for pair in pairs for b in pair]))
def test_a_refused_hash_is_kept_exactly(value: list[bytes]) -> None:
    letter = dead_letter(b"k", value, "reason")
    assert letter.raw_format == "hash"
    assert raw_value(letter.raw, letter.raw_format) == value


@given(st.binary())
def test_a_refused_string_or_dump_is_kept_exactly(value: bytes) -> None:
    letter = dead_letter(b"k", value, "reason")
    assert (letter.raw_format, raw_value(letter.raw, letter.raw_format)) == ("string", value)
    letter = dead_letter(b"k", WrongType("zset", value), "reason")
    assert letter.raw_format == "dump"
    dumped = raw_value(letter.raw, letter.raw_format)
    assert isinstance(dumped, WrongType)
    assert dumped.dump == value


def test_one_malformed_key_leaves_the_rest_of_the_batch() -> None:
    batch = parsed(
        API_KEY,
        (b"apikey:a:metrics", [b"total_requests", b"1"]),
        (b"apikey:b:metrics", [b"total_requests", b"-1"]),
        (b"apikey:c:metrics", WrongType("list", b"dump")),
        (b"apikey:d:metrics", [b"total_requests", b"2"]),
    )
    assert [line.split(b"\t")[:2] for line in batch.lines] == [[b"a", b"1"], [b"b", b"0"], [b"d", b"2"]]
    assert [(letter.source_key, letter.member) for letter in batch.dead_letters] == [
        (b"apikey:b:metrics", "total_requests"),
        (b"apikey:c:metrics", None),
    ]
    assert batch.dead_letters[1].reason == "key: expected a Redis hash, came a list"
    assert len(batch.keys) == 4
    assert batch.claimed_at == datetime(2025, 1, 1, 12, tzinfo=UTC)


def test_a_token_of_another_type_is_named_so() -> None:
    batch = parsed(TOKEN, (b"token_usage:t:i", WrongType("hash", b"dump")))
    assert batch.dead_letters[0].reason == "key: expected a Redis string, came a hash"

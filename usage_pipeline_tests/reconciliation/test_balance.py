"""The books of the reconciliation: what is carried between days, what two looks confirm, what a broken value counts."""

from collections import Counter
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from usage_pipeline.reconciliation.balance import Look, balances, confirmed
from usage_pipeline.reconciliation.counted import of_hash, of_letter, of_token

AT = datetime(2026, 3, 3, 12, tzinfo=UTC)
FIRST, SECOND, THIRD = (date(2026, 3, day) for day in (1, 2, 3))
VIENNA = ZoneInfo("Europe/Vienna")


def look(family: str, recorded: dict[date, int], stored: dict[date, int]) -> Look:
    def amounts(days: dict[date, int]) -> Counter[tuple[str, date]]:
        return Counter({(family, day): amount for day, amount in days.items()})

    return Look(amounts(recorded), Counter(), Counter(), amounts(stored))


def outcome(seen: Look) -> dict[date, tuple[int, int]]:
    return {row.usage_date: (row.carried, row.difference) for row in balances(seen)}


def test_a_delta_over_midnight_is_carried_to_the_day_that_it_counts_for() -> None:
    seen = look("api_key", {FIRST: 10, SECOND: 5}, {FIRST: 7, SECOND: 8})
    assert outcome(seen) == {FIRST: (3, 0), SECOND: (-3, 0)}


def test_a_late_record_takes_what_was_drained_with_it_to_its_own_day() -> None:
    seen = look("token", {FIRST: 1, THIRD: 5}, {FIRST: 6})
    assert outcome(seen) == {FIRST: (-5, 0), THIRD: (5, 0)}


def test_a_shortage_is_covered_from_the_nearest_day_and_only_as_far_as_that_goes() -> None:
    seen = look("provider", {FIRST: 10, SECOND: 10, THIRD: 10}, {FIRST: 12, SECOND: 3, THIRD: 13})
    assert outcome(seen) == {FIRST: (-2, 0), SECOND: (5, 2), THIRD: (-3, 0)}


def test_merchant_counters_name_their_day_so_that_nothing_is_carried() -> None:
    assert outcome(look("merchant", {FIRST: 10}, {SECOND: 10})) == {FIRST: (0, 10), SECOND: (0, -10)}


def test_other_writers_make_a_difference_below_zero_and_nothing_is_missing() -> None:
    rows = balances(look("api_key", {FIRST: 1}, {FIRST: 5}))
    assert [(row.difference, row.missing) for row in confirmed(rows, rows)] == [(-4, 0)]


@pytest.mark.parametrize(("first", "second", "missing"), [(0, 4, 0), (4, 0, 0), (4, 9, 4), (9, 4, 4), (4, -1, 0)])
def test_only_what_both_looks_missed_is_missing(first: int, second: int, missing: int) -> None:
    before, after = (balances(look("event", {FIRST: 10}, {FIRST: 10 - short})) for short in (first, second))
    [row] = confirmed(before, after)
    assert (row.difference, row.missing) == (second, missing)


def test_a_hash_counts_for_the_earlier_of_its_last_use_and_its_claim() -> None:
    late = int(datetime(2026, 3, 1, 23, 30, tzinfo=UTC).timestamp() * 1000)
    assert of_hash(b"7", b"%d" % late, at=AT, timezone=VIENNA) == (SECOND, 7)
    assert of_hash(b"7", b"%d" % (late + 10**12), at=AT, timezone=VIENNA) == (THIRD, 7)


@pytest.mark.parametrize("broken", [None, b"", b"x", b"-3", b"9" * 20, "7", b"1.5"])
def test_fields_that_cannot_be_read_count_nothing(broken: object) -> None:
    assert of_hash(broken, broken, at=AT, timezone=VIENNA) == (THIRD, 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"usageCount": 5, "lastUsedAt": "2026-03-01T10:00:00.000Z", "instanceId": "i"}', (FIRST, 5)),
        (b'{"usageCount": 5}', (THIRD, 5)),
        (b'{"usageCount": "5", "lastUsedAt": 3}', (THIRD, 0)),
        (b'{"usageCount": -1, "lastUsedAt": "0001-01-01T00:00:00+14:00"}', (THIRD, 0)),
        (b"[]", (THIRD, 0)),
        (b"[" * 100_000, (THIRD, 0)),
        (b"\xff", (THIRD, 0)),
        (None, (THIRD, 0)),
    ],
)
def test_a_token_counts_what_can_be_read(value: object, expected: tuple[date, int]) -> None:
    assert of_token(value, at=AT, timezone=VIENNA) == expected


def test_a_dead_letter_counts_what_our_recorder_put_into_it() -> None:
    fields = [b"upload_count", b"4", b"total_file_size", b"lots"]
    assert of_letter("provider", b"provider:a:b:metrics", fields, at=AT, timezone=VIENNA) == (THIRD, 4)
    assert of_letter("event", b"event_queue", b"junk", at=AT, timezone=VIENNA) == (THIRD, 1)
    assert of_letter("merchant", b"usage:m:2026-03-01:orders", b"12", at=AT, timezone=VIENNA) == (FIRST, 12)
    assert of_letter("merchant", b"usage:m:2026-13-01:orders", b"12", at=AT, timezone=VIENNA) == (THIRD, 12)

"""Rules for single values: what is stored, and the reason of what is refused."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline import values
from usage_pipeline.values import Malformed, TimeWindow

CLAIMED_MS = 1_735_732_800_000  # 2025-01-01 12:00 UTC
DAY_MS = 86_400_000
WINDOW = TimeWindow.around(CLAIMED_MS, retention_days=180)
BIGINT = 2**63 - 1


@given(st.integers(0, BIGINT), st.integers(0, 30))
def test_every_bigint_is_a_count_leading_zeros_or_not(number: int, zeros: int) -> None:
    assert values.count("n", b"0" * zeros + str(number).encode()) == number


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"1.5", "n: expected an integer, came '1.5'"),
        (b"", "n: expected an integer, came ''"),
        (b"+1", "n: expected an integer"),
        (b" 1", "n: expected an integer"),
        (b"1_000", "n: expected an integer"),
        (b"1e3", "n: expected an integer"),
        ("٣".encode(), "n: expected an integer"),
        (b"1\x00", r"n: expected an integer, came '1\\x00'"),
        (b"-1", "n: expected a count of 0 or more, came '-1'"),
        (str(BIGINT + 1).encode(), "n: expected at most 9223372036854775807 (bigint), came '9223372036854775808'"),
        (b"9" * 400, "n: expected at most 9223372036854775807 (bigint), came '999"),
    ],
)
def test_what_is_no_count_is_refused_with_its_reason(value: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as refused:
        values.count("n", value)
    assert str(refused.value).startswith(reason)
    assert len(str(refused.value)) < 200


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200))
def test_any_text_of_up_to_200_characters_is_an_id(text: str) -> None:
    assert values.identifier("id", text.encode()) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "id: expected 1 to 200 characters, came 0"),
        ("é".encode() * 201, "id: expected 1 to 200 characters, came 201"),
        (b"a\0b", "id: expected no NUL character, came one at position 1"),
        (b"a\xff", "id: expected UTF-8, came"),
        (b"\xed\xa0\x80", "id: expected UTF-8, came"),
    ],
)
def test_what_is_no_id_is_refused_with_its_reason(value: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as refused:
        values.identifier("id", value)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize("ms", [CLAIMED_MS - 180 * DAY_MS, CLAIMED_MS, CLAIMED_MS + DAY_MS])
def test_a_time_from_the_retention_to_a_day_ahead_is_taken_to_the_millisecond(ms: int) -> None:
    at = values.epoch_ms("at", str(ms).encode(), WINDOW)
    assert (at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1) == ms
    assert values.moment("at", at, WINDOW) == at


@pytest.mark.parametrize(
    "value",
    [
        str(CLAIMED_MS - 180 * DAY_MS - 1).encode(),
        str(CLAIMED_MS + DAY_MS + 1).encode(),
        b"0",
        b"1735732800",  # seconds, not milliseconds
        b"9" * 18,
        b"9" * 19,
        b"-1",
        b"1.5",
        b"now",
        b"",
    ],
)
def test_an_absurd_time_is_refused(value: bytes) -> None:
    with pytest.raises(
        Malformed, match=r"^at: expected (a time from 2024-07-05 \(RETENTION_DAYS\) to|epoch ms|epoch mil)"
    ):
        values.epoch_ms("at", value, WINDOW)


@pytest.mark.parametrize(
    "at",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-23))),
        datetime(2020, 1, 1, tzinfo=UTC),
    ],
)
def test_an_absurd_moment_is_refused(at: datetime) -> None:
    with pytest.raises(Malformed, match=r"^at: expected a time"):
        values.moment("at", at, WINDOW)


def test_a_moment_without_an_offset_is_utc() -> None:
    naive = datetime(2025, 1, 1, 12)  # noqa: DTZ001  # the case in question
    assert values.moment("at", naive, WINDOW) == datetime(2025, 1, 1, 12, tzinfo=UTC)


@given(st.binary(max_size=500))
def test_any_bytes_can_be_shown_in_a_reason(value: bytes) -> None:
    assert "\0" not in values.shown(value)
    values.shown(value).encode()
    assert len(values.shown(value)) < 300


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7", (7,)),
        ("1-3,42", (1, 2, 3, 42)),
        (" 9 , 2-2,1-3", (1, 2, 3, 9)),
        ("100", (100,)),
        ("1-5,1-5,2-6", (1, 2, 3, 4, 5, 6)),
    ],
)
def test_numbers_are_a_list_with_ranges(text: str, found: tuple[int, ...]) -> None:
    assert values.numbers("x", text, largest=100, most=6) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *(
            (text, "expected numbers and ranges")
            for text in ("", ",", "1,", "a", "1-", "-1", "1-2-3", "1.5", "٣", "1" * 11)
        ),
        *((text, "expected numbers from 1 to 100") for text in ("0", "101", "3-1", "0-2", "99-101")),
        *((text, "expected at most 6 numbers") for text in ("1-7", "1-4,5-7", "1,2,3,4,5,6,7")),
    ],
)
def test_what_is_no_such_list_is_refused_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(Malformed, match=f"^x: {problem}"):
        values.numbers("x", text, largest=100, most=6)


def test_a_range_that_is_far_too_long_is_refused_before_it_is_made() -> None:
    with pytest.raises(Malformed, match="at most 6 numbers"):
        values.numbers("x", "1-9999999999", largest=10**10, most=6)

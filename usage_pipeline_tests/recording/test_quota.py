"""The decision whether one more request is within a quota."""

import pytest
from usage_recorder.quota import QuotaDecision, decide


@pytest.mark.parametrize(
    ("per_day", "per_minute", "today", "this_minute", "expected"),
    [
        (None, None, 10**12, 10**12, QuotaDecision(True, None, None, True)),
        (10, None, 9, 500, QuotaDecision(True, 1, None, True)),
        (10, None, 10, 0, QuotaDecision(False, 0, None, True)),
        (10, None, 12, 0, QuotaDecision(False, 0, None, True)),
        (None, 3, 99, 2, QuotaDecision(True, None, 1, True)),
        (10, 3, 0, 3, QuotaDecision(False, 10, 0, True)),
        (0, None, 0, 0, QuotaDecision(False, 0, None, True)),
    ],
)
def test_a_request_is_allowed_while_every_limit_has_room(
    per_day: int | None, per_minute: int | None, today: int, this_minute: int, expected: QuotaDecision
) -> None:
    assert decide(per_day, per_minute, used_today=today, used_this_minute=this_minute) == expected

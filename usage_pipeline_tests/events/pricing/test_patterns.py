"""What the `*` of own prices meets: the same as a shell's, whatever names senders give."""

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.pricing.own_prices import matches


@given(st.text("ab*", max_size=8), st.text("ab\n", max_size=12))
def test_a_star_is_any_text(pattern: str, text: str) -> None:
    assert matches(pattern, text) is fnmatch.fnmatchcase(text, pattern)


@given(st.text("ab*[]?.", max_size=8))
def test_other_signs_stand_for_themselves(text: str) -> None:
    assert matches(text, text)
    assert not matches(f"[{text.replace('*', '')}]", "a")


def test_a_name_that_nearly_meets_many_stars_keeps_nobody_busy() -> None:
    """As a regular expression, these did not end in a minute."""
    assert not matches("*".join(["", *"a" * 95, "b"]), "a" * 200)
    assert not matches("*-*-*-*-*-x", "-" * 200)

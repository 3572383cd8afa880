"""Each parser with inputs that Hypothesis makes from valid ones, in small (see __main__.py)."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from usage_pipeline_tests.fuzz.parsers import PARSERS
from usage_pipeline_tests.fuzz.seeds import PIECES, SEEDS


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed in which some places are cut out, doubled, or replaced by pieces or by bytes."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 5))):
        first = draw(st.integers(0, len(data)))
        last = min(len(data), first + draw(st.integers(0, 40)))
        put = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8), st.just(data[first:last] * 2)))
        data = data[:first] + put + data[last:]
    return data


def test_every_parser_has_seeds() -> None:
    assert PARSERS.keys() == SEEDS.keys()


@pytest.mark.parametrize("name", PARSERS)
def test_a_seed_passes(name: str) -> None:
    for seed in SEEDS[name]:
        PARSERS[name](seed)


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_comes_is_stored_or_refused_with_a_reason(name: str) -> None:
    @settings(max_examples=400)
    @given(changed(SEEDS[name]))
    @example(b"")
    def check(data: bytes) -> None:
        PARSERS[name](data)

    check()

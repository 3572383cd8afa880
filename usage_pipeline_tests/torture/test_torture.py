"""Every fault of the torture in small: what `make torture` does a thousand times, a few times each."""

from collections.abc import Iterator

import pytest

from usage_pipeline_tests.torture.faults import FAULTS
from usage_pipeline_tests.torture.servers import Stage

_KILLS = 12


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_or_doubled_or_silently_different_under(name: str, stage: Stage) -> None:
    outcome = FAULTS[name].run(stage, FAULTS[name].times(_KILLS), 1)
    assert outcome.problems == ()
    assert outcome.stored >= outcome.written > 0

"""What a restore loses, doubles and tells, in small; `make restore-drill` prints the table of docs/operations.md."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from usage_pipeline_tests.restore.backups import NoDump, dump_programs
from usage_pipeline_tests.restore.drill import FAMILIES, SCENARIOS, Outcome, play
from usage_pipeline_tests.torture.servers import Stage

DELTAS = ("api_key", "provider", "token")
NONE = dict.fromkeys(FAMILIES, 0)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        try:
            dump_programs(stage.postgres)
        except NoDump as reason:
            pytest.skip(str(reason))
        yield stage


def played(stage: Stage, folder: Path, name: str, *, is_in_the_middle: bool) -> Outcome:
    [scenario] = [one for one in SCENARIOS if (one.name, one.is_in_the_middle) == (name, is_in_the_middle)]
    return play(stage, folder, scenario, ids=5)


def not_in(outcome: Outcome, *families: str) -> dict[str, int]:
    """What these families had written and the dump had not; of the others nothing."""
    return NONE | {family: outcome.written[family] - outcome.in_dump[family] for family in families}


def test_the_same_moment_loses_and_doubles_nothing_although_a_drain_was_in_the_middle(
    stage: Stage, tmp_path: Path
) -> None:
    outcome = played(stage, tmp_path, "the same moment", is_in_the_middle=True)
    # A part of the last turn was stored, and not deleted in Redis.
    last = outcome.in_dump["api_key"] - 3 * outcome.turn["api_key"]
    assert 0 < last < outcome.turn["api_key"]
    assert (outcome.lost, outcome.doubled, outcome.missing) == (NONE, NONE, NONE)
    assert outcome.alerts.isdisjoint({"missing-usage", "redis-went-back"})


def test_an_older_dump_loses_what_was_drained_since_and_the_reconciliation_says_how_much(
    stage: Stage, tmp_path: Path
) -> None:
    outcome = played(stage, tmp_path, "PostgreSQL older", is_in_the_middle=True)
    # Three turns of four were drained and deleted. What was claimed, stored or not, was there, and is stored once.
    drained = {family: 3 * outcome.turn[family] - outcome.in_dump[family] for family in FAMILIES}
    assert min(drained.values()) > 0
    assert outcome.lost == outcome.missing == drained | {"merchant": 0}
    assert outcome.doubled == NONE
    assert "missing-usage" in outcome.alerts


def test_an_older_snapshot_whose_counters_are_deleted_loses_what_was_not_drained_and_doubles_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    outcome = played(stage, tmp_path, "Redis older, its counters deleted", is_in_the_middle=True)
    assert outcome.lost == not_in(outcome, *FAMILIES)
    assert min(outcome.lost.values()) > 0
    assert outcome.doubled == NONE
    assert {name: outcome.missing[name] for name in DELTAS} == {name: outcome.lost[name] for name in DELTAS}
    assert {"missing-usage", "redis-went-back", "uncertain-batches"} <= outcome.alerts
    assert outcome.regressions > 0


def test_an_older_snapshot_that_is_drained_as_it_is_counts_again_what_it_had(stage: Stage, tmp_path: Path) -> None:
    outcome = played(stage, tmp_path, "Redis older, drained as it is", is_in_the_middle=False)
    assert outcome.lost == not_in(outcome, *FAMILIES)
    # Events have ids, and merchants' counters are absolute.
    assert outcome.doubled == NONE | {family: outcome.turn[family] for family in DELTAS}
    assert {"redis-went-back", "uncertain-batches"} <= outcome.alerts
    assert outcome.uncertain == {*DELTAS, "event"}
    # As much is lost as is doubled here: their sums hide each other, and the alert of Redis alone tells.
    assert {family: outcome.missing[family] for family in DELTAS} == dict.fromkeys(DELTAS, 0)


def test_an_empty_redis_loses_what_was_not_drained_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    outcome = played(stage, tmp_path, "PostgreSQL alone, Redis empty", is_in_the_middle=False)
    assert outcome.lost == outcome.missing == not_in(outcome, *FAMILIES)
    assert outcome.doubled == NONE
    assert {"missing-usage", "redis-went-back"} <= outcome.alerts

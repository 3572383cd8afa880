"""Every fault of the torture in small (what `make torture` does a thousand times), and that its own count can be trusted."""

from collections import Counter
from collections.abc import Iterator

import pytest

from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.arena import arena
from usage_pipeline_tests.torture.balance import compare
from usage_pipeline_tests.torture.drainers.parent import DrainerEnded, Drainers
from usage_pipeline_tests.torture.faults.catalogue import FAULTS
from usage_pipeline_tests.torture.faults.failover import Pair
from usage_pipeline_tests.torture.load import Load
from usage_pipeline_tests.torture.schedules import Schedules
from usage_pipeline_tests.torture.servers import NO_PERSISTENCE, Stage

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


def test_schedules_of_single_steps_are_one_more_row() -> None:
    with Schedules(4, seed=1) as running:
        outcome = running.outcome()
    assert outcome.problems == ()
    assert outcome.times >= 4
    assert outcome.stored == outcome.written > 0


def test_what_is_stored_too_often_does_not_hide_what_is_lost() -> None:
    a, b = ("api_key", "a", "total_requests"), ("api_key", "b", "total_requests")
    balance = compare(Counter({a: 5, b: 5}), Counter({a: 7, b: 3}))
    assert (balance.written, balance.stored, balance.lost, balance.doubled) == (10, 10, 2, 2)
    assert balance.differing == {("api_key", "a"), ("api_key", "b")}


def test_a_writer_counts_exactly_what_the_promoted_server_has(stage: Stage) -> None:
    with Pair(stage, NO_PERSISTENCE) as pair:
        load = Load(pair.front.port, seed=1)
        load.burst(3)
        with pair.primary.client() as client, client.client() as pinned:
            pinned.set("written", 1)
            assert pinned.wait(1, 5_000) == 1
        kept = load.written()
        pair.link.hold()
        load.burst(2)
        assert load.written() != kept
        pair.fail_over()
        load.look_back()
        assert load.written() == kept
        assert load.forgotten == 2 * len(load.writers)


def test_a_drain_process_that_ends_by_itself_is_noticed(stage: Stage) -> None:
    given = {"drain_chunk_keys": 0, "usage_timezone": "UTC"}
    with Drainers(stage.drainer_parent, given) as drainers:
        drainers.start()
        with pytest.raises(DrainerEnded, match="DRAIN_CHUNK_KEYS"):
            wait_until(drainers.check, "never: check returns nothing")


def test_a_count_that_nobody_wrote_fails_the_fault(stage: Stage) -> None:
    with stage.running_redis() as server, arena(stage, server.port, seed=1) as here:
        here.load.burst(1)
        with server.client() as client:
            client.hincrby("apikey:0-stranger:metrics", "total_requests", 3)
        outcome = here.outcome("a stranger writes", 1)
    assert (outcome.lost, outcome.doubled) == (0, 3)
    assert "doubled: 3" in outcome.problems
    assert any("no flagged batch" in problem for problem in outcome.problems)

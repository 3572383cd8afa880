"""Whoever is busy, each family gets its share of a round: for every set of busy families, in every order."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.drain.protocol import DrainLimits, DrainReport
from usage_pipeline.drain.turns import drain_in_turns

FAMILIES = ("api_key", "provider", "event", "token")
BUDGET = 12.0


@dataclass
class World:
    """Families with work in steps of some seconds each, and a clock that only their steps move."""

    steps_left: dict[str, int]
    step_seconds: dict[str, float]
    now: float = 0.0
    done: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAMILIES, 0))

    def drain(self, family: str, limits: DrainLimits) -> DrainReport:
        report = DrainReport(family)
        while self.steps_left[family]:
            self.now += self.step_seconds[family]
            self.steps_left[family] -= 1
            self.done[family] += 1
            report.keys += 1
            if self.now >= limits.deadline and self.steps_left[family]:
                report.is_complete = False
                break
        return report


@given(
    st.permutations(FAMILIES),
    st.fixed_dictionaries({family: st.sampled_from([0, 1, 3, 10_000]) for family in FAMILIES}),
    st.fixed_dictionaries({family: st.sampled_from([0.01, 0.1, 1.0, 5.0]) for family in FAMILIES}),
)
def test_each_family_gets_its_share_or_all_that_it_wants(
    order: tuple[str, ...], steps: dict[str, int], seconds: dict[str, float]
) -> None:
    world = World(dict(steps), seconds)
    reports = {
        report.family: report
        for report in drain_in_turns(order, DrainLimits(deadline=BUDGET), world.drain, lambda: world.now)
    }
    late = 0.0
    for family in order:
        # The families before it may have taken more than their shares, by the one step that each may always do.
        share = BUDGET / len(FAMILIES) - late
        late += seconds[family]
        at_least = min(steps[family], max(1, int(share / seconds[family])))
        assert world.done[family] >= at_least, (order, world)
        assert reports[family].keys == world.done[family]
        assert reports[family].is_complete == (world.steps_left[family] == 0)
    assert world.now <= BUDGET + late, "a round ends in time, but for a step of each family"
    if any(world.steps_left.values()):
        assert world.now >= BUDGET, "no time is left unused while somebody waits"


@given(st.permutations(FAMILIES), st.sets(st.sampled_from(FAMILIES)))
def test_without_a_limit_everything_is_done_in_one_turn(order: tuple[str, ...], busy: set[str]) -> None:
    world = World({family: 50 if family in busy else 0 for family in FAMILIES}, dict.fromkeys(FAMILIES, 1.0))
    reports = drain_in_turns(order, DrainLimits(), world.drain, lambda: world.now)
    assert [report.family for report in reports] == list(order)
    assert not any(world.steps_left.values())


@given(st.permutations(FAMILIES), st.sampled_from(FAMILIES))
def test_a_family_that_another_drainer_works_on_takes_no_share(order: tuple[str, ...], taken: str) -> None:
    world = World(dict.fromkeys(FAMILIES, 10_000), dict.fromkeys(FAMILIES, 0.1))
    reports = drain_in_turns(
        order,
        DrainLimits(deadline=BUDGET),
        lambda family, limits: None if family == taken else world.drain(family, limits),
        lambda: world.now,
    )
    assert {report.family for report in reports} == {*FAMILIES} - {taken}
    assert world.now >= BUDGET


def test_a_stop_ends_the_round_after_one_turn() -> None:
    world = World(dict.fromkeys(FAMILIES, 10_000), dict.fromkeys(FAMILIES, 0.1))
    drain_in_turns(FAMILIES, DrainLimits(deadline=0.0, should_stop=lambda: True), world.drain, lambda: world.now)
    assert world.done == dict.fromkeys(FAMILIES, 1)

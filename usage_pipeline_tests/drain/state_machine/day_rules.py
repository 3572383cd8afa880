"""Rules of the machine for schedules with days: use of past days, roll-ups, lifecycles, archives, between steps of drains."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from usage_pipeline_tests.drain.state_machine.days import (
    COMPRESSION_AFTER_DAYS,
    DAYS_AGO,
    DAYS_AHEAD,
    RETENTION_DAYS,
    Days,
)
from usage_pipeline_tests.drain.state_machine.schedule_writer import IDS, ScheduleWriter

which = st.integers(0, 3)
has_days = precondition(lambda machine: machine.days is not None)


class DayRules(RuleBasedStateMachine):
    """A schedule without days has `days` None, and none of these rules."""

    days: Days | None = None
    writer: ScheduleWriter

    if TYPE_CHECKING:

        def _family(self, at: int) -> str: ...
        def _drain_quietly(self, family: str) -> None: ...
        def _look_at_days(self) -> None: ...

    @has_days
    @rule(
        family=which,
        names=st.lists(st.sampled_from(IDS), min_size=1, max_size=4),
        amount=st.sampled_from((1, 2, 3, 5, 8)),
        days_ago=st.sampled_from(DAYS_AGO),
    )
    def use_on_another_day(self, family: int, names: Sequence[str], amount: int, days_ago: int) -> None:
        """What is written from now on was used on that day."""
        self.writer.days_ago = days_ago
        for name in names:
            self.writer.write(self._family(family), name, amount)

    @has_days
    @rule(family=which, days_ago=st.one_of(st.none(), st.sampled_from(DAYS_AGO)))
    def roll_up(self, family: int, days_ago: int | None) -> None:
        """What waits, or one day that may not wait."""
        if days_ago is None:
            self.days.roll_up()
        else:
            self.days.make_again(self._family(family), days_ago)

    @has_days
    @rule(
        family=which,
        drains=st.sampled_from((True, True, False)),
        rolls_up=st.sampled_from((True, True, False)),
        days_ahead=st.sampled_from(DAYS_AHEAD),
        retention_days=st.sampled_from(RETENTION_DAYS),
        compression_after_days=st.sampled_from(COMPRESSION_AFTER_DAYS),
        has_archive=st.sampled_from((True, True, False)),
    )
    def run_lifecycle(
        self,
        family: int,
        drains: bool,
        rolls_up: bool,
        days_ahead: int,
        retention_days: int,
        compression_after_days: int,
        has_archive: bool,
    ) -> None:
        """By settings that were raised or lowered since the last run, and by a clock that may be far ahead."""
        if drains:
            self._drain_quietly(self._family(family))
        if rolls_up:
            self.days.roll_up()
        self.days.run_lifecycle(
            days_ahead=days_ahead,
            retention_days=retention_days,
            compression_after_days=compression_after_days,
            has_archive=has_archive,
        )

    @has_days
    @rule(
        family=which,
        names=st.lists(st.sampled_from(IDS), min_size=1, max_size=4),
        amount=st.sampled_from((1, 2, 3, 5, 8)),
        retention_days=st.sampled_from((15, 180)),
        restores=st.booleans(),
    )
    def lose_a_day_and_use_it(
        self, family: int, names: Sequence[str], amount: int, retention_days: int, restores: bool
    ) -> None:
        """All that is drained and rolled up is archived or dropped, and then something is used on such a day again."""
        self._drain_quietly(self._family(family))
        self.days.roll_up()
        self.days.run_lifecycle(
            days_ahead=max(DAYS_AHEAD),
            retention_days=retention_days,
            compression_after_days=min(COMPRESSION_AFTER_DAYS),
        )
        self._look_at_days()
        if restores:
            self.days.restore(family, ages=False)
        for name in names:
            self.writer.write(self._family(family), name, amount)
        self._drain_quietly(self._family(family))

    @has_days
    @rule(at=st.integers(0, 20), ages=st.sampled_from((False, False, True)))
    def restore(self, at: int, ages: bool) -> None:
        self.days.restore(at, ages=ages)

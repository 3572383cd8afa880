"""All faults by name, and how often each happens for a given number of kills."""

from collections.abc import Callable
from dataclasses import dataclass

from usage_pipeline_tests.torture.arena import Outcome
from usage_pipeline_tests.torture.faults.clocks import expire_claims, shift_clocks
from usage_pipeline_tests.torture.faults.kills import kill_commands, kill_drainers
from usage_pipeline_tests.torture.faults.postgres import restart_postgres, terminate_at_commit, terminate_in_apply
from usage_pipeline_tests.torture.faults.recorders import kill_recorders
from usage_pipeline_tests.torture.faults.redis import (
    fail_over_with_wait,
    fail_over_without_wait,
    restart_age,
    restart_always,
    restart_waitaof,
)
from usage_pipeline_tests.torture.servers import Stage


@dataclass(frozen=True, slots=True)
class Fault:
    """`run(stage, times, seed)` does it so many times: `share` of the number of kills, and at least `fewest`."""

    run: Callable[[Stage, int, int], Outcome]
    share: float
    fewest: int

    def times(self, kills: int) -> int:
        return max(self.fewest, round(kills * self.share))


FAULTS = {
    # These two add up to the number of kills.
    "kill": Fault(kill_drainers, 0.98, 2),
    "kill-command": Fault(kill_commands, 0.02, 1),
    "terminate": Fault(terminate_in_apply, 0.2, 6),
    "terminate-commit": Fault(terminate_at_commit, 0.1, 8),
    "restart-postgres": Fault(restart_postgres, 0.03, 1),
    "restart-redis": Fault(restart_always, 0.06, 2),
    "restart-waitaof": Fault(restart_waitaof, 0.02, 1),
    "restart-age": Fault(restart_age, 0.01, 1),
    "failover-wait": Fault(fail_over_with_wait, 0.03, 1),
    "failover-none": Fault(fail_over_without_wait, 0.03, 1),
    "expire": Fault(expire_claims, 0.012, 1),
    "recorders": Fault(kill_recorders, 0.05, 3),
    "clocks": Fault(shift_clocks, 0.004, 2),
}

"""The share of a round that each family gets: whoever is busy, the others are drained too. No I/O."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from usage_pipeline.drain.protocol import DrainLimits, DrainReport


def drain_in_turns(
    families: Sequence[str],
    limits: DrainLimits,
    drain: Callable[[str, DrainLimits], DrainReport | None],
    now: Callable[[], float] = time.monotonic,
) -> list[DrainReport]:
    """Drains each family within its share of the time that is left, and those that did not finish again within the rest.

    `drain(family, limits)` returns None for a family that another drainer works on. What a family leaves of its share goes to
    the families after it, and at the end to those that were cut short. A drain does one step at least, so a round may take
    longer than its limits: by one step of each family.
    """
    reports: dict[str, DrainReport] = {}
    waiting = list(families)
    while waiting:
        cut_short: list[str] = []
        for number, family in enumerate(waiting):
            share = (limits.deadline - now()) / (len(waiting) - number)
            report = drain(family, replace(limits, deadline=min(limits.deadline, now() + share)))
            if report is None:
                continue
            if not report.is_complete:
                cut_short.append(family)
            reports[family] = reports[family].with_next(report) if family in reports else report
        if limits.should_stop() or now() >= limits.deadline:
            break
        waiting = cut_short
    return list(reports.values())

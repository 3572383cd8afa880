"""Asset checks of the counters: one step per asset, which looks at the last days and at those of its run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from usage_pipeline.checks import counters as counter_checks
from usage_pipeline.checks import open_matters
from usage_pipeline.checks.counters import COUNTER_TABLES
from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.merchants import MERCHANT_USAGE_KEY
from usage_pipeline.defs.assets.redis_sources import source_key
from usage_pipeline.defs.assets.snapshots import output_keys, snapshot_key
from usage_pipeline.defs.assets.windows import EVENTS_KEY
from usage_pipeline.defs.checks.results import CHECK_SECONDS, checked_spans, faults_result
from usage_pipeline.events.landing.dead_letters import KINDS
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

_ERROR, _WARNING = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
# Connection, first and last day, settings -> what is wrong. The connection is the domain's affair.
Find = Callable[[Any, date, date, Settings], list[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A check of an asset. One that is asked by `days` looks at each span of days, any other once."""

    name: str
    description: str
    severity: dg.AssetCheckSeverity
    find: Find
    blocking: bool = False
    by_days: bool = False


def counter_asset_checks() -> list[dg.AssetChecksDefinition]:
    """All checks of the counters; what makes them fail is told by their domain functions."""
    found = []
    for family in COUNTER_TABLES:
        found.append(_checks(daily_key(family), _of_days(family)))
        found.append(_checks(output_keys(family)[1], [_totals(family)]))
        found.append(_checks(source_key(family), [_backlog(family)]))
        found.append(_checks(snapshot_key(family), [_dead_letters([family])]))
    return [
        *found,
        _checks(source_key("event"), [_backlog("event")]),
        _checks(snapshot_key("event"), [_dead_letters(["event"])]),
        _checks(EVENTS_KEY, [_dead_letters(sorted(KINDS))]),
        _checks(MERCHANT_USAGE_KEY, [_regressions(), _merchant_days(), _dead_letters(["merchant"])]),
    ]


def _of_days(family: str) -> list[Rule]:
    tables = COUNTER_TABLES[family]
    return [
        Rule(
            "is_sum_of_raw",
            f"Each day is the sum of `{tables.daily.raw_table}`, as long as that is whole and once the day is rolled up.",
            _ERROR,
            lambda connection, first, last, _: counter_checks.day_sum_faults(connection, family, first, last),
            blocking=True,
            by_days=True,
        ),
        Rule(
            "no_negative_count",
            "No count is below 0.",
            _ERROR,
            lambda connection, first, last, _: counter_checks.negative_faults(
                connection, tables.daily.table, "usage_date", first, last
            ),
            blocking=True,
            by_days=True,
        ),
        Rule(
            "days_are_complete",
            "Every closed day that was touched is rolled up two hours later, and no day of the last week between days with "
            "usage is without any.",
            _WARNING,
            lambda connection, _, __, settings: counter_checks.day_completeness_faults(
                connection, family, today=current_day(settings.timezone), now=datetime.now(UTC)
            ),
        ),
    ]


def _totals(family: str) -> Rule:
    return Rule(
        "is_sum_of_raw",
        f"Each total is what was drained: its days in `{COUNTER_TABLES[family].daily.table}`, and of days that are not rolled "
        f"up their rows in `{COUNTER_TABLES[family].daily.raw_table}`.",
        _ERROR,
        lambda connection, *_: counter_checks.total_faults(connection, family),
        blocking=True,
    )


def _backlog(family: str) -> Rule:
    return Rule(
        "backlog_is_young",
        "Nothing waits in Redis, live or claimed, for more than two intervals of its drain.",
        _WARNING,
        lambda _, __, ___, settings: open_matters.backlog_faults(settings, family),
    )


def _dead_letters(families: Sequence[str]) -> Rule:
    return Rule(
        "no_dead_letters",
        "Nothing was refused, or all of it is settled: `usage-pipeline dead-letters list`.",
        _WARNING,
        lambda connection, *_: open_matters.dead_letter_faults(connection, families),
    )


def _regressions() -> Rule:
    return Rule(
        "no_regressions",
        "No counter reads lower than what is stored; what is stored stays until `usage-pipeline counters accept-reset`.",
        _ERROR,
        lambda connection, *_: open_matters.regression_faults(connection),
    )


def _merchant_days() -> Rule:
    return Rule(
        "days_are_complete",
        "Every day of the last week was aggregated after it ended: what is not, Redis forgets after seven days.",
        _WARNING,
        lambda connection, _, __, settings: open_matters.unaggregated_day_faults(
            connection, today=current_day(settings.timezone), settings=settings
        ),
    )


def _checks(asset: dg.AssetKey, rules: Sequence[Rule]) -> dg.AssetChecksDefinition:
    by_name = {rule.name: rule for rule in rules}

    @dg.multi_asset_check(
        name=f"checks_of_{'_'.join(asset.path)}",
        specs=[
            dg.AssetCheckSpec(rule.name, asset=asset, description=rule.description, blocking=rule.blocking)
            for rule in rules
        ],
        can_subset=True,
    )
    def checks(
        context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.AssetCheckResult]:
        spans = checked_spans(context.run.tags, current_day(settings.timezone))
        with closing(connect(settings, statement_seconds=CHECK_SECONDS)) as connection:
            for check in sorted(context.selected_asset_check_keys):
                rule = by_name[check.name]
                asked = spans if rule.by_days else spans[-1:]
                faults = [fault for first, last in asked for fault in rule.find(connection, first, last, settings)]
                # Two spans may tell the same.
                yield faults_result(list(dict.fromkeys(faults)), name=rule.name, asset=asset, severity=rule.severity)

    return checks

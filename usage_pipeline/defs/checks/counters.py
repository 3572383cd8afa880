"""Asset checks of the counters: one step for each asset, which looks at the last days and at the days of its run."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from usage_pipeline.checks import counters as counter_checks
from usage_pipeline.checks import numbers, open_matters
from usage_pipeline.checks.counters import COUNTER_TABLES
from usage_pipeline.checks.landing import landing_faults
from usage_pipeline.defs.assets.daily import daily_key
from usage_pipeline.defs.assets.landing import LANDED_FILES
from usage_pipeline.defs.assets.merchants import MERCHANT_USAGE_KEY
from usage_pipeline.defs.assets.redis_sources import source_key
from usage_pipeline.defs.assets.snapshots import output_keys, snapshot_key
from usage_pipeline.defs.assets.windows import EVENTS_KEY
from usage_pipeline.defs.checks.results import CHECK_SECONDS, Find, Numbers, checked_spans, faults_result, of_all_spans
from usage_pipeline.events.landing.dead_letters import KINDS
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect

_ERROR, _WARNING = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@dataclass(frozen=True, slots=True)
class Rule:
    """A check of an asset. With `by_days` it looks at each span of days, else it looks once. `numbers` are told beside the
    faults, of all days that it looked at.
    """

    name: str
    description: str
    severity: dg.AssetCheckSeverity
    find: Find
    blocking: bool = False
    by_days: bool = False
    numbers: Numbers | None = None


def counter_asset_checks() -> list[dg.AssetChecksDefinition]:
    """All checks of the counters. `usage_pipeline/checks/` has their rules."""
    found = []
    for family in COUNTER_TABLES:
        found.append(_checks(daily_key(family), _of_days(family)))
        found.append(_checks(output_keys(family)[1], [_totals(family)]))
        # One server has all of them: told of the first alone.
        of_redis = [_keeps_all()] if family == "api_key" else []
        found.append(_checks(source_key(family), [_backlog(family), *of_redis]))
        found.append(_checks(snapshot_key(family), [_dead_letters([family])]))
    return [
        *found,
        _checks(source_key("event"), [_backlog("event")]),
        _checks(snapshot_key("event"), [_dead_letters(["event"])]),
        _checks(EVENTS_KEY, [_dead_letters(sorted(KINDS))]),
        _checks(LANDED_FILES, [_landing()]),
        _checks(MERCHANT_USAGE_KEY, [_regressions(), _merchant_days(), _dead_letters(["merchant"])]),
    ]


def _of_days(family: str) -> list[Rule]:
    tables = COUNTER_TABLES[family]
    return [
        Rule(
            "is_sum_of_raw",
            f"Each day that was made is the sum of its rows in `{tables.daily.raw_table}`, unless they are archived or gone.",
            _ERROR,
            lambda connection, first, last, _: counter_checks.day_sum_faults(connection, family, first, last),
            blocking=True,
            by_days=True,
            numbers=_rows(tables.daily.table),
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
            numbers=_rows(tables.daily.table),
        ),
        Rule(
            "days_are_complete",
            "Every past day whose counts changed was made again at most two hours later. No day of the last week is empty "
            "while the days around it have usage.",
            _WARNING,
            lambda connection, _, __, settings: counter_checks.day_completeness_faults(
                connection, family, today=current_day(settings.timezone), now=datetime.now(UTC)
            ),
            numbers=lambda connection, _, __, settings: {
                "age_seconds": numbers.overdue_day_seconds(
                    connection, family, today=current_day(settings.timezone), now=datetime.now(UTC)
                )
            },
        ),
    ]


def _rows(table: str) -> Numbers:
    return lambda connection, first, last, _: {
        "rows_looked_at": numbers.rows_of_days(connection, table, "usage_date", first, last)
    }


def _totals(family: str) -> Rule:
    return Rule(
        "is_sum_of_raw",
        f"Each total is the sum of its days in `{COUNTER_TABLES[family].daily.table}`, or of its rows in "
        f"`{COUNTER_TABLES[family].daily.raw_table}` for days that are not made yet.",
        _ERROR,
        lambda connection, *_: counter_checks.total_faults(connection, family),
        blocking=True,
        numbers=lambda connection, *_: {"rows_looked_at": numbers.rows_of_totals(connection, family)},
    )


def _backlog(family: str) -> Rule:
    return Rule(
        "backlog_is_young",
        "No key or item has waited in Redis for more than two intervals of its drain.",
        _WARNING,
        lambda _, __, ___, settings: open_matters.backlog_faults(settings, family),
        numbers=lambda _, __, ___, settings: {"age_seconds": open_matters.backlog_age_seconds(settings, family)},
    )


def _keeps_all() -> Rule:
    return Rule(
        "redis_keeps_all",
        "Redis deletes no counters when its memory is full: its `maxmemory-policy` is `noeviction`, or it has no `maxmemory`.",
        _WARNING,
        lambda _, __, ___, settings: open_matters.eviction_faults(settings),
    )


def _dead_letters(families: Sequence[str]) -> Rule:
    return Rule(
        "no_dead_letters",
        "No dead letter is open. `usage-pipeline dead-letters list` shows open ones with their reasons, `dead-letters show "
        "NUMBER` what can be done. Those that somebody discarded are not open.",
        _WARNING,
        lambda connection, *_: open_matters.dead_letter_faults(connection, families),
        numbers=lambda connection, *_: open_matters.dead_letter_counts(connection, families),
    )


def _landing() -> Rule:
    return Rule(
        "folder_is_read",
        "The landing folder holds only files that are read, and each moves away once it was read.",
        _WARNING,
        lambda connection, _, __, settings: landing_faults(connection, settings),
    )


def _regressions() -> Rule:
    return Rule(
        "no_regressions",
        "No counter in Redis is lower than its stored value, or back after it was lost. The stored value stays until you run "
        "`usage-pipeline counters accept-reset` (Redis lost it), `accept-restore` (Redis brought back another state) or "
        "`accept-correction` (somebody changed it).",
        _ERROR,
        lambda connection, *_: open_matters.regression_faults(connection),
    )


def _merchant_days() -> Rule:
    return Rule(
        "days_are_complete",
        "The counters of every day of the last week were stored after the day ended. Redis forgets them after seven days.",
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
                told = of_all_spans(rule.numbers(connection, *span, settings) for span in asked if rule.numbers)
                # Two spans may tell the same.
                yield faults_result(
                    list(dict.fromkeys(faults)), name=rule.name, asset=asset, severity=rule.severity, numbers=told
                )

    return checks

"""Asset checks of hours, days, weeks and months. Each looks at the last days and at the days of its run."""

from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from usage_pipeline.checks import costs as cost_checks
from usage_pipeline.checks import windows as window_checks
from usage_pipeline.checks.counters import negative_faults
from usage_pipeline.checks.numbers import overdue_window_seconds, rows_of_days
from usage_pipeline.defs.assets.windows import EVENTS_KEY, window_key
from usage_pipeline.defs.checks.results import CHECK_SECONDS, Find, Numbers, checked_spans, faults_result, of_all_spans
from usage_pipeline.rollups import calendar
from usage_pipeline.rollups.calendar import GRAINS, Grain
from usage_pipeline.rollups.daily import current_day
from usage_pipeline.rollups.window_tables import MOST_TAG_VALUES, WINDOW_TABLES
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect


def window_asset_checks() -> list[dg.AssetChecksDefinition]:
    """All checks of hours, days, weeks and months. `usage_pipeline/checks/windows.py` has their rules."""
    error, warning = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    return [
        _check(
            window_key("day"),
            "events_are_counted_once",
            "The events of each day and the registry of their ids have the same count. So do its hours and the day, once made.",
            error,
            lambda connection, first, last, settings: window_checks.day_count_faults(
                connection, first, last, settings.timezone
            ),
            blocking=True,
        ),
        _check(
            EVENTS_KEY,
            "no_conflicts",
            "No event came with the id of another and other content, unless somebody decided (`usage-pipeline conflicts`).",
            warning,
            lambda connection, first, _, settings: window_checks.conflict_faults(
                connection, calendar.day_window(first, settings.timezone).first
            ),
        ),
        _check(
            window_key("hour"),
            "no_gaps",
            "Every hour since the first event has requests, and was made at most two hours after its end.",
            warning,
            lambda connection, first, last, settings: window_checks.hour_gap_faults(
                connection, first, last, settings.timezone, datetime.now(UTC)
            ),
            numbers=_overdue_age("hour"),
        ),
        _check(
            window_key("day"),
            "few_errors",
            f"In no service more than {window_checks.LARGEST_ERROR_SHARE:.0%} of the requests failed.",
            warning,
            lambda connection, first, last, _: window_checks.error_share_faults(connection, first, last),
        ),
        _check(
            window_key("day"),
            "senders_are_known",
            "Every request has a team and a service. What a span of OpenTelemetry does not tell is `unknown`; "
            "OTLP_TEAM_ATTRIBUTES and OTLP_SERVICE_ATTRIBUTES say what tells it.",
            warning,
            lambda connection, first, last, _: window_checks.unknown_share_faults(connection, first, last),
        ),
        _check(
            window_key("day"),
            "models_have_prices",
            "Every request has a list price. Without one and without a reported cost, `cost_usd` is NULL. Give own prices: "
            "`usage-pipeline prices import`.",
            warning,
            lambda connection, first, last, _: window_checks.unpriced_faults(connection, first, last),
        ),
        _check(
            window_key("day"),
            "costs_agree",
            f"What senders report for a model differs from the list price of the same requests by at most "
            f"{cost_checks.LARGEST_DIFFERENCE:.0%}. Days, teams and services with a reported request without a list price are "
            "left out.",
            warning,
            lambda connection, first, last, _: cost_checks.cost_difference_faults(connection, first, last),
        ),
        _check(
            window_key("day"),
            "tokens_are_attributed",
            "All tokens of a request are input or output. Others have no price; `unattributed_tokens` counts them.",
            warning,
            lambda connection, first, last, _: cost_checks.unattributed_faults(connection, first, last),
        ),
        _check(
            window_key("day"),
            "tags_are_few",
            f"No tag of ROLLUP_TAGS has more than {MOST_TAG_VALUES:,} values in a day. All beyond are one value, `other`.",
            warning,
            lambda connection, first, last, _: cost_checks.crowded_tag_faults(connection, first, last),
        ),
        *(
            _check(
                window_key(grain),
                "is_sum_of_days",
                f"Every {grain} that was made is the sum of its days.",
                error,
                _merged(grain),
            )
            for grain in ("week", "month")
        ),
        *(
            _check(
                window_key(grain), "no_negative_count", "No count is below 0.", error, _negative(grain), blocking=True
            )
            for grain in GRAINS
        ),
        *(
            _check(
                window_key(grain),
                "windows_are_complete",
                f"Every {grain} that ended two hours ago or earlier was made with all its events.",
                warning,
                _overdue(grain),
                numbers=_overdue_age(grain),
            )
            # Hours have `no_gaps`.
            for grain in GRAINS[1:]
        ),
    ]


def _merged(grain: Grain) -> Find:
    begin = {"week": calendar.week_of, "month": calendar.month_of}[grain]

    def find(connection: Any, first: date, last: date, settings: Settings) -> list[str]:
        days = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
        starts = sorted({begin(day) for day in days})
        windows = [calendar.window_on(grain, start, settings.timezone) for start in starts]
        return window_checks.merged_window_faults(connection, windows)

    return find


def _negative(grain: Grain) -> Find:
    table = WINDOW_TABLES[grain]

    def find(connection: Any, first: date, last: date, _: Settings) -> list[str]:
        begin = {"week": calendar.week_of(first), "month": calendar.month_of(first)}.get(grain, first)
        return negative_faults(connection, table.table, table.column, begin, last)

    return find


def _overdue(grain: Grain) -> Find:
    return lambda connection, _, __, settings: window_checks.overdue_window_faults(
        connection, grain, datetime.now(UTC), settings.timezone
    )


def _rows(asset: dg.AssetKey) -> Numbers:
    """How many rows of its own table were looked at. Events have none of their own: how many there are, their days tell."""
    table = next((WINDOW_TABLES[grain] for grain in GRAINS if window_key(grain) == asset), WINDOW_TABLES["day"])
    return lambda connection, first, last, _: {
        "rows_looked_at": rows_of_days(connection, table.table, table.column, first, last)
    }


def _overdue_age(grain: Grain) -> Numbers:
    return lambda connection, _, __, settings: {
        "age_seconds": overdue_window_seconds(connection, grain, datetime.now(UTC), settings.usage_timezone)
    }


def _check(
    asset: dg.AssetKey,
    name: str,
    description: str,
    severity: dg.AssetCheckSeverity,
    find: Find,
    *,
    blocking: bool = False,
    numbers: Numbers | None = None,
) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset, name=name, description=description, blocking=blocking)
    def window_check(
        context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> dg.AssetCheckResult:
        told = numbers or _rows(asset)
        spans = checked_spans(context.run.tags, current_day(settings.timezone))
        with closing(connect(settings, statement_seconds=CHECK_SECONDS)) as connection:
            found = [fault for span in spans for fault in find(connection, *span, settings)]
            together = of_all_spans(told(connection, *span, settings) for span in spans)
        # Two spans may tell the same.
        return faults_result(list(dict.fromkeys(found)), severity=severity, numbers=together)

    return window_check

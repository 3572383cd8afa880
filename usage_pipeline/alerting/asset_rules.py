"""The rules about what assets hold: red checks, assets that are too old, files that cannot be read."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from usage_pipeline.alerting.alert import Alert
from usage_pipeline.alerting.facts import BrokenFile, OrchestrationFacts
from usage_pipeline.alerting.links import asset_link, partition_query
from usage_pipeline.settings import Settings

# A check that only warns is told when it was red for so long: much of that is over by itself, or has an alert of its own.
WARNED_FOR = timedelta(days=1)


def failed_checks(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
    for one in orchestration.failed_checks:
        lasting = datetime.now(UTC) - one.since
        if not one.is_error and lasting < WARNED_FOR:
            continue
        where = f"{one.asset}, partition {one.partition}" if one.partition else one.asset
        query = partition_query(one.partition) or "?view=checks"
        yield Alert(
            "failed-check",
            f"failed-check:{one.asset}:{one.check}",
            "failure" if one.is_error else "warning",
            f"Check {one.check} of {one.asset} is red",
            f"The check {one.check} of {where} is red since {one.since:%Y-%m-%d %H:%M %Z}: {one.found}",
            "Open the asset in the UI: its description says what the check compares, the tab Checks what it found, and "
            "docs/checks.md what to do. If partitions are missing or old, materialize them: that is safe to repeat. The alert "
            "clears when the check is green.",
            link=asset_link(settings, one.asset, query),
        )


def stale_assets(orchestration: OrchestrationFacts, settings: Settings) -> Iterator[Alert]:
    for one in orchestration.stale_assets:
        yield Alert(
            "stale-asset",
            f"stale-asset:{one.asset}",
            "failure",
            f"{one.asset} is not fresh",
            f"{one.asset} was not made for longer than its freshness policy allows, since {one.since:%Y-%m-%d %H:%M %Z}.",
            "Look under Automation in the UI whether its schedule or sensor is on and its ticks succeed, and under Runs "
            "whether its runs fail or wait. To make the asset now, choose Materialize. The alert clears when it is made.",
            link=asset_link(settings, one.asset),
        )


def broken_files(found: Sequence[BrokenFile], settings: Settings) -> Iterator[Alert]:
    for one in found:
        yield Alert(
            "broken-file",
            f"broken-file:{one.address[:500]}",
            "failure",
            f"The landed file {one.address} is broken",
            f"{one.address} of LANDING_URL (asset ops/landed_files) could not be read to its end at "
            f"{one.broken_at:%Y-%m-%d %H:%M %Z}. The reason is beside it, and in the table ops.landed_files.",
            "It lies in `broken/` of its folder. What was good in it before is stored. Correct "
            "the file and put it into the folder again under the same name: what is stored already counts once.",
            link=asset_link(settings, "ops/landed_files"),
            ending="A file of this name was read since, or a week has passed.",
        )

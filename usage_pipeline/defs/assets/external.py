"""`external/posts`: posts of the external API, and a check of how many could not be fetched."""

from contextlib import closing

import dagster as dg

from usage_pipeline.defs.metadata import OWNERS, table_metadata, table_rows
from usage_pipeline.enrichment.refresh import AlreadyRefreshing, RefreshReport, refresh_posts
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.table_profile import profile_table
from usage_pipeline.texts import counted

POSTS_KEY = dg.AssetKey(["external", "posts"])
# One run at a time: dagster.yaml limits the tag of scheduled runs and the pool of all. The pool's limit misses its first
# runs ever; a lock in PostgreSQL does not.
EXTERNAL_TAG = {"usage_pipeline/external_api": "1"}
EXTERNAL_POOL = "external_api"
# Shares of the wanted posts that a run did not get: above the first a warning, above the second an error.
WARN_ABOVE_SHARE = 0.0
ERROR_ABOVE_SHARE = 0.5
_TABLE = "app.external_posts"
_CHECK = dg.AssetCheckSpec(
    "few_fallbacks",
    asset=POSTS_KEY,
    description="The last run fetched every post. One failed post is a warning; more than half of them is an error. `kept` "
    "counts failed posts of which an older copy stays stored.",
)


@dg.asset(
    key=POSTS_KEY,
    group_name="external",
    owners=OWNERS,
    kinds={"postgres", "api"},
    description="Posts of the external API (EXTERNAL_POST_IDS). Table `app.external_posts`. While the API is away, a post that "
    "was fetched before stays as it is, and any other is stored as a fallback.",
    metadata=table_metadata(_TABLE),
    check_specs=[_CHECK],
    pool=EXTERNAL_POOL,
    # No retry policy: each request was retried where that helps, and the next run comes within the hour. A second owner of
    # retries would multiply the requests to an API that is in trouble.
)
def external_posts(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster asks for it bare
    try:
        report = refresh_posts(settings)
    except AlreadyRefreshing as problem:
        raise dg.Failure(str(problem), allow_retries=False) from problem
    counts = {name: getattr(report, name) for name in ("fetched", "fallbacks", "kept", "not_tried", "seconds")}
    with closing(connect(settings)) as connection:
        rows = table_rows(_TABLE, profile_table(connection, _TABLE))
    return dg.MaterializeResult(metadata={**counts, **rows}, check_results=[_few_fallbacks(report)])


def _few_fallbacks(report: RefreshReport) -> dg.AssetCheckResult:
    share = report.missing_share
    is_error = share > ERROR_ABOVE_SHARE
    return dg.AssetCheckResult(
        check_name=_CHECK.name,
        passed=share <= WARN_ABOVE_SHARE,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=f"{report.fallbacks + report.not_tried} of {counted(report.wanted, 'post')} could not be fetched.",
        metadata={"missing_share": share, "wanted": report.wanted, "kept": report.kept},
    )

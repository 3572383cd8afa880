"""`external/posts` through Dagster, with a real server as the API: metadata, the check's states, one run at a time."""

from collections.abc import Iterator

import dagster as dg
import psycopg
import pytest

from usage_pipeline.definitions import build_definitions
from usage_pipeline.defs.assets.external import EXTERNAL_POOL, EXTERNAL_TAG, POSTS_KEY
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.external_api import Behaviour, ExternalApi, external_api, post, status

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def api() -> Iterator[ExternalApi]:
    with external_api() as api:
        yield api


def run(settings: Settings, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    definitions = build_definitions({"settings": settings})
    return definitions.resolve_job_def("external_posts").execute_in_process(
        instance=instance, run_config=QUIET, raise_on_error=False
    )


def answering_up_to(last: int) -> Behaviour:
    # 404 is not retried: nothing waits.
    return lambda api, connection, post_id: (post if post_id <= last else status(404))(api, connection, post_id)


@pytest.mark.parametrize(
    ("answered", "passed", "severity"),
    [
        (4, True, dg.AssetCheckSeverity.WARN),
        (3, False, dg.AssetCheckSeverity.WARN),
        (2, False, dg.AssetCheckSeverity.WARN),
        (1, False, dg.AssetCheckSeverity.ERROR),
        (0, False, dg.AssetCheckSeverity.ERROR),
    ],
)
def test_a_run_reports_what_it_got_and_the_check_says_how_bad_it_is(
    api: ExternalApi,
    settings: Settings,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    answered: int,
    passed: bool,
    severity: dg.AssetCheckSeverity,
) -> None:
    api.otherwise = answering_up_to(answered)
    result = run(api.settings(settings, external_post_ids="1-4"), instance)
    assert result.success
    [event] = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    found = {name: metadata[name].value for name in ("fetched", "fallbacks", "kept", "not_tried")}
    assert found == {"fetched": answered, "fallbacks": 4 - answered, "kept": 0, "not_tried": 0}
    assert metadata["seconds"].value >= 0
    [check] = result.get_asset_check_evaluations()
    assert (check.asset_key, check.check_name) == (POSTS_KEY, "few_fallbacks")
    assert (check.passed, check.severity) == (passed, severity)
    assert check.metadata["missing_share"].value == (4 - answered) / 4
    stored = postgres.execute("select count(*) filter (where is_fallback), count(*) from app.external_posts").fetchone()
    assert stored == (4 - answered, 4)


def test_an_api_that_goes_away_again_fails_the_check_though_posts_are_stored(
    api: ExternalApi, settings: Settings, instance: dg.DagsterInstance
) -> None:
    ours = api.settings(settings, external_post_ids="1-2")
    assert run(ours, instance).get_asset_check_evaluations()[0].passed
    api.otherwise = status(404)
    result = run(ours, instance)
    [check] = result.get_asset_check_evaluations()
    assert (check.passed, check.metadata["kept"].value) == (False, 2)
    assert result.get_asset_materialization_events()[0].materialization.metadata["kept"].value == 2


def test_a_run_beside_another_fails_asks_for_nothing_and_is_not_retried(
    api: ExternalApi,
    settings: Settings,
    instance: dg.DagsterInstance,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usage_pipeline.enrichment.refresh.WAIT_SECONDS", 0.1)
    postgres.execute("select pg_advisory_lock(hashtext('external_posts'), 0)")
    result = run(api.settings(settings), instance)
    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert "another run has been fetching external posts" in str(failure.step_failure_data.error)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert api.requests == []


def test_the_client_is_the_only_owner_of_retries_and_runs_are_limited(settings: Settings) -> None:
    definitions = build_definitions({"settings": settings})
    asset = definitions.resolve_assets_def(POSTS_KEY)
    assert asset.op.retry_policy is None
    assert asset.op.pool == EXTERNAL_POOL == "external_api"
    job = definitions.resolve_job_def("external_posts")
    assert job.tags.items() >= EXTERNAL_TAG.items()
    assert definitions.resolve_schedule_def("external_posts_hourly").cron_schedule == "40 * * * *"

"""Each job that is on by default has the settings that it needs, wherever deploy/ has runs work: compose, Celery, the chart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterRun
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._serdes import ConfigurableClassData
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job

from usage_pipeline.definitions import build_definitions
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.deploy.pods import CHART
from usage_pipeline_tests.rigs.deployment_files import CELERY_COMPOSE, COMPOSE, DEPLOY, documents, services

[VALUES] = documents(DEPLOY / "helm" / "values.yaml")
[DEPLOYMENT] = VALUES["dagster-user-deployments"]["deployments"]
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
SECRETS = {
    one["metadata"]["name"]: one["stringData"] for one in documents(DEPLOY / "kubernetes" / "secret.example.yaml")
}
DATABASE, REDIS = {"DATABASE_URL"}, {"REDIS_URL"}
BOTH = DATABASE | REDIS
# What a job or a sensor reads or writes, beside Dagster's own storage.
NEEDS: Mapping[str, set[str]] = {
    "drain_now": BOTH,
    "drain_metrics": BOTH,
    "drain_tokens": BOTH,
    "daily_tables": DATABASE,
    "merchant_usage": BOTH,
    "observe_sources": BOTH,
    "usage_hourly": DATABASE,
    "usage_daily": DATABASE,
    "usage_weekly": DATABASE,
    "usage_monthly": DATABASE,
    "storage_lifecycle": DATABASE | {"ARCHIVE_URL"},
    "history": {"DAGSTER_POSTGRES_URL"},
    "external_posts": DATABASE,
    "issue_stats": DATABASE,
    "issue_ranking": BOTH,
    "usage_rankings": BOTH,
    "current_rankings": BOTH,
    "report_of_week": DATABASE | {"REPORTS_URL"},
    "report_of_month": DATABASE | {"REPORTS_URL"},
    "reconcile": BOTH,
    "counter_checks": DATABASE | {"LANDING_URL"},
    "freshness": DATABASE,
    "landed_files": DATABASE | {"LANDING_URL"},
    "late_days": DATABASE,
    "late_windows": DATABASE,
    "late_stats": DATABASE,
    "missed_partitions": DATABASE,
    "first_looks": set(),
    "alerts": BOTH,
    "failed_runs": DATABASE,
}
# They come with a default that is no place, or are for whoever wants them.
NO_PLACES = {"EXTERNAL_API_BASE_URL", "ALERT_URLS", "DAGSTER_UI_URL"}


def test_the_table_has_every_job_and_sensor_and_every_place() -> None:
    found = build_definitions({"settings": load_settings(landing_url="/landing")}).get_repository_def()
    jobs = {one.name for one in found.get_all_jobs() if not one.name.startswith("__")}
    assert set(NEEDS) == jobs | {one.name for one in found.sensor_defs}
    assert {one.job_name for one in found.schedule_defs} <= jobs
    places = {name.upper() for name in Settings.model_fields if name.endswith(("_url", "_urls"))} - NO_PLACES
    assert places == set().union(*NEEDS.values())


def of_compose() -> Mapping[str, set[str]]:
    code = services(COMPOSE)["code"]["environment"]
    return {"code": set(code), "celery-worker": set(services(CELERY_COMPOSE)["celery-worker"]["environment"])}


def of_code_in_the_chart() -> set[str]:
    """As the chart's deployment-user.yaml puts it together."""
    secrets = [set(SECRETS[one["name"]]) for one in DEPLOYMENT["envSecrets"]]
    return {one["name"] for one in DEPLOYMENT["env"]}.union(*secrets)


@pytest.fixture
def run_pod(tmp_path: Path) -> dict[str, Any]:
    """The pod of a run, made by Dagster's own launcher from what the chart hands it of our values."""
    cluster = {"name": "any", "cluster": {"server": "http://127.0.0.1:1"}}
    kubeconfig = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "current-context": "any"}
    kubeconfig |= {"contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}]}
    kubeconfig |= {"users": [{"name": "any", "user": {}}]}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    # The chart's _run-launcher.tpl.
    run_config = LAUNCHER["runK8sConfig"]
    config = {
        "load_incluster_config": False,
        "kubeconfig_file": str(tmp_path / "kubeconfig"),
        "job_namespace": "usage-pipeline",
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": VALUES["global"]["dagsterHome"],
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "image_pull_policy": LAUNCHER["imagePullPolicy"],
        "env_secrets": [one["name"] for one in LAUNCHER["envSecrets"]],
        "resources": LAUNCHER["resources"],
        "run_k8s_config": {
            "container_config": run_config["containerConfig"],
            "pod_spec_config": run_config["podSpecConfig"],
            "pod_template_spec_metadata": run_config["podTemplateSpecMetadata"],
            "job_spec_config": run_config["jobSpecConfig"],
        },
    }
    data = ConfigurableClassData("dagster_k8s", "K8sRunLauncher", yaml.safe_dump(config))
    launcher = data.rehydrate(as_type=K8sRunLauncher)
    # Its `dagsterUserDeployments.k8sContainerContext`, where includeConfigInLaunchedRuns is on.
    assert DEPLOYMENT["includeConfigInLaunchedRuns"]["enabled"]
    context = {
        "image_pull_policy": DEPLOYMENT["image"]["pullPolicy"],
        "env_secrets": [one["name"] for one in DEPLOYMENT["envSecrets"]],
        "env": DEPLOYMENT["env"],
        "resources": DEPLOYMENT["resources"],
        "namespace": "usage-pipeline",
    }
    image = "{repository}:{tag}".format(**DEPLOYMENT["image"])
    pointer = ModuleCodePointer("usage_pipeline.definitions", "defs", None)
    origin = RepositoryPythonOrigin("python", pointer, image, container_context={"k8s": context})
    run = DagsterRun(job_name="history", job_code_origin=JobPythonOrigin("history", origin))
    merged = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
    job = construct_dagster_k8s_job(
        merged.get_k8s_job_config(image, launcher),
        args=["dagster", "api", "execute_run"],
        job_name="run",
        component="run_worker",
        user_defined_k8s_config=merged.run_k8s_config,
    )
    template: dict[str, Any] = job.to_dict()["spec"]["template"]
    return template


def of_run(pod: Mapping[str, Any]) -> set[str]:
    [container] = pod["spec"]["containers"]
    secrets = [set(SECRETS[one["secret_ref"]["name"]]) for one in container["env_from"] if one["secret_ref"]]
    return {one["name"] for one in container["env"]}.union(*secrets)


@pytest.mark.parametrize("name", NEEDS)
def test_it_has_what_it_needs_wherever_it_works(name: str, run_pod: Mapping[str, Any]) -> None:
    given = {**of_compose(), "chart's code": of_code_in_the_chart(), "chart's run": of_run(run_pod)}
    missing = {where: NEEDS[name] - variables for where, variables in given.items()}
    assert not any(missing.values()), missing


def test_the_chart_s_pods_and_ours_mean_the_same_storage_of_dagster() -> None:
    """Pruning looks for its own run in what DAGSTER_POSTGRES_URL names, and stops if it is another storage."""
    url = SECRETS["usage-pipeline-code"]["DAGSTER_POSTGRES_URL"]
    assert load_settings(dagster_postgres_url=url).dagster_postgres_url
    chart = VALUES["postgresql"]
    parameters = "&".join(f"{name}={value}" for name, value in chart["postgresqlParams"].items())
    assert url == (
        f"{chart['postgresqlScheme']}://{chart['postgresqlUsername']}:CHANGE-ME@{chart['postgresqlHost']}:5432/"
        f"{chart['postgresqlDatabase']}?{parameters}"
    )


def test_the_pod_of_a_run_is_contained_and_has_the_labels_by_which_it_is_found(run_pod: Mapping[str, Any]) -> None:
    [container] = run_pod["spec"]["containers"]
    assert container["security_context"]["capabilities"]["drop"] == ["ALL"]
    assert container["security_context"]["allow_privilege_escalation"] is False
    assert container["resources"]["limits"]["memory"] == DEPLOYMENT["resources"]["limits"]["memory"]
    assert run_pod["spec"]["security_context"]["run_as_user"] == 10001
    assert run_pod["metadata"]["annotations"] == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    assert CHART["run"].items() <= run_pod["metadata"]["labels"].items()

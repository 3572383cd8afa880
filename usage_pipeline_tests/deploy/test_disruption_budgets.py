"""What may be evicted while nodes are emptied: each pod that stays has one budget, and none stops it for good."""

import yaml

from usage_pipeline_tests.deploy.pods import CHART, PODS, STRANGER, selects
from usage_pipeline_tests.rigs.deployment_files import DEPLOY, documents

MANIFESTS = [document for path in (DEPLOY / "kubernetes").glob("*.yaml") for document in documents(path)]
BUDGETS = [one["spec"] for one in MANIFESTS if one["kind"] == "PodDisruptionBudget"]
[VALUES] = documents(DEPLOY / "helm" / "values.yaml")


def replicas_of_those_that_stay() -> dict[str, int]:
    """Of each pod that is no job's. The chart gives one to each of its own unless the values say otherwise."""
    of_chart = {name: VALUES.get(f"dagster{name.title()}", {}).get("replicaCount", 1) for name in set(CHART) - {"run"}}
    of_ours = {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["replicas"]
        for one in MANIFESTS
        if one["kind"] == "Deployment"
    }
    return of_chart | of_ours


def test_each_pod_that_stays_has_one_budget_which_lets_its_node_be_emptied() -> None:
    stay = replicas_of_those_that_stay()
    assert set(stay) == {"api", "drain", "code", "webserver", "webserver-read-only", "daemon"}
    for name, replicas in stay.items():
        [budget] = [one for one in BUDGETS if selects(one["selector"], PODS[name])]
        least = budget.get("minAvailable", replicas - budget.get("maxUnavailable", 0))
        assert least < replicas, f"{name}: nobody could be evicted"
        assert replicas == 1 or least >= 1, f"{name}: all could be evicted at once"
    # A budget for pods of jobs takes a number of those that must stay, which nobody knows.
    assert not [
        one for name in ("run", "migrate", "aggregate") for one in BUDGETS if selects(one["selector"], PODS[name])
    ]
    assert not [one for one in BUDGETS if selects(one["selector"], STRANGER)]


def test_runs_are_left_to_end_by_the_cluster_autoscaler() -> None:
    metadata = VALUES["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["podTemplateSpecMetadata"]
    # A text: of a boolean, Kubernetes refuses the whole pod.
    assert yaml.safe_load(yaml.safe_dump(metadata)) == {
        "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    }

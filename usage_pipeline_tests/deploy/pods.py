"""The pods of our manifests and of Dagster's chart, by their labels, and which of them a selector takes."""

from collections.abc import Iterator, Mapping
from typing import Any

from usage_pipeline_tests.rigs.deployment_files import DEPLOY, documents, mappings

Labels = Mapping[str, str]
# As templates of the chart and its run launcher (dagster_k8s) label them.
CHART: Mapping[str, Labels] = {
    "code": {"app.kubernetes.io/name": "dagster-user-deployments", "component": "user-deployments"},
    "webserver": {"app.kubernetes.io/name": "dagster", "component": "dagster-webserver"},
    "webserver-read-only": {"app.kubernetes.io/name": "dagster", "component": "dagster-webserver-read-only"},
    "daemon": {"app.kubernetes.io/name": "dagster", "component": "dagster-daemon"},
    "run": {"app.kubernetes.io/name": "dagster", "app.kubernetes.io/component": "run_worker"},
}


def _ours() -> Iterator[tuple[str, Labels]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in documents(path):
            for one in mappings(document):
                if "containers" in one.get("spec", {}) and "metadata" in one:
                    labels = one["metadata"]["labels"]
                    yield labels["app.kubernetes.io/component"], labels


PODS: Mapping[str, Labels] = {**CHART, **dict(_ours())}
STRANGER: Labels = {"app": "anything"}


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """By the rules of LabelSelector; an empty one selects every pod."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )

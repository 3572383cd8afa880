"""Who may connect to whom in Kubernetes, for each pod of our manifests and of Dagster's chart."""

from collections.abc import Mapping
from typing import Any

import pytest

from usage_pipeline_tests.deploy.pods import CHART, PODS, STRANGER, Labels, selects
from usage_pipeline_tests.rigs.deployment_files import DEPLOY, documents

POLICIES = documents(DEPLOY / "kubernetes" / "network-policies.yaml")
[VALUES] = documents(DEPLOY / "helm" / "values.yaml")


def policies_of(labels: Labels, kind: str) -> list[dict[str, Any]]:
    return [
        one["spec"]
        for one in POLICIES
        if kind in one["spec"]["policyTypes"] and selects(one["spec"]["podSelector"], labels)
    ]


def may_connect(source: Labels, target: Labels, port: int) -> bool:
    """From a pod of the namespace to another: both sides must allow it."""

    def peers_allow(rule: Mapping[str, Any], side: str, other: Labels) -> bool:
        peers = rule.get(side)
        if peers is None:
            return True
        return any("podSelector" in peer and selects(peer["podSelector"], other) for peer in peers)

    def allows(labels: Labels, kind: str, side: str, other: Labels) -> bool:
        found = policies_of(labels, kind)
        return not found or any(
            peers_allow(rule, side, other) and port in [one["port"] for one in rule["ports"]]
            for spec in found
            for rule in spec.get(kind.lower(), [])
        )

    return allows(source, "Egress", "to", target) and allows(target, "Ingress", "from", source)


def test_every_pod_is_closed_in_both_directions_unless_something_opens_it() -> None:
    assert {"api", "migrate", "aggregate", "drain"} <= set(PODS)
    for name, labels in {**PODS, "any": STRANGER}.items():
        for kind in ("Ingress", "Egress"):
            assert policies_of(labels, kind), f"{name}: {kind}"
    for policy in POLICIES:
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            assert rule["ports"], f"{policy['metadata']['name']}: a rule without ports allows all of them"
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], f"{policy['metadata']['name']}: a rule without peers allows all of them"


def test_only_dagsters_own_pods_reach_the_code_server() -> None:
    [deployment] = VALUES["dagster-user-deployments"]["deployments"]
    port = deployment["port"]
    reaching = {name for name, labels in {**PODS, "any": STRANGER}.items() if may_connect(labels, CHART["code"], port)}
    assert reaching == {"webserver", "webserver-read-only", "daemon"}


@pytest.mark.parametrize("target", sorted(set(PODS) - {"code"}))
def test_no_pod_of_the_namespace_reaches_another(target: str) -> None:
    """The web page and the HTTP service are for the ingress controller and for Prometheus, which are in other namespaces."""
    for port in (3000, 4000, 8000):
        reaching = {
            name for name, labels in {**PODS, "any": STRANGER}.items() if may_connect(labels, PODS[target], port)
        }
        assert not reaching, port


def test_ports_are_those_of_the_services() -> None:
    opened = {
        policy["metadata"]["name"]: {
            port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]
        }
        for policy in POLICIES
    }
    found = {name: ports for name, ports in opened.items() if ports}
    assert found == {
        "api": {8000},
        "code-server": {4000},
        "webservers": {VALUES["dagsterWebserver"]["service"]["port"]},
    }

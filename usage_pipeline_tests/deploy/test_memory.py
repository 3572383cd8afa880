"""The memory limits of deploy/ follow from the settings: enough for the service at its limits, and not much more."""

import re
from typing import Any

import pytest

from usage_pipeline.api.memory import most_memory
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.deployment_files import COMPOSE, DEPLOY, documents, services

_UNITS = {"Mi": 2**20, "Gi": 2**30, "M": 2**20, "G": 2**30}


def in_bytes(limit: str) -> int:
    """Of Kubernetes, and of compose, where `M` is 1024 * 1024."""
    number, unit = re.fullmatch(r"(\d+)(\D+)", limit).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[unit]


def settings_of(variables: dict[str, Any]) -> Settings:
    limits = {"db_pool_size", "max_gzip_size", "max_connections", "max_bulk_size"}
    return load_settings(**{name.lower(): value for name, value in variables.items() if name.lower() in limits})


def workers_of(command: list[str]) -> int:
    return int(command[command.index("--workers") + 1]) if "--workers" in command else 1


def test_the_limit_of_compose_is_what_its_workers_may_take() -> None:
    service = services(COMPOSE)["api"]
    most = most_memory(settings_of(service["environment"]), workers_of(service["command"]))
    assert most <= in_bytes(service["deploy"]["resources"]["limits"]["memory"]) <= 1.2 * most


def test_the_limit_of_kubernetes_is_what_its_process_may_take() -> None:
    [deployment] = [one for one in documents(DEPLOY / "kubernetes" / "api.yaml") if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    most = most_memory(settings_of(variables), workers_of(container["command"]))
    assert most <= in_bytes(container["resources"]["limits"]["memory"]) <= 1.2 * most


@pytest.mark.parametrize("name", ["db_pool_size", "max_gzip_size", "max_connections"])
def test_each_limit_that_costs_memory_counts(name: str) -> None:
    usual = Settings()
    doubled = usual.model_copy(update={name: 2 * getattr(usual, name)})
    assert most_memory(doubled) > most_memory(usual) + 10 * 2**20

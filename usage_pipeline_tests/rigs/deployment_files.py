"""The files of deploy/ as tests read them: YAML, and compose services with their variables put in."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from usage_pipeline_tests.rigs.places import PROJECT

DEPLOY = PROJECT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
CELERY_COMPOSE = DEPLOY / "celery" / "compose.yaml"
# What Dagster reads from the environment, and what its chart and its Celery launcher call theirs.
DAGSTER_VARIABLES = {
    "DAGSTER_HOME",
    "DAGSTER_CELERY_BROKER_URL",
    "DAGSTER_CELERY_BACKEND_URL",
    "DAGSTER_CELERY_SIGNING_KEY",
    "DAGSTER_EVENT_BATCH_SIZE",
    "DAGSTER_PG_PASSWORD",
}
_VARIABLE = re.compile(r"\$\$|\$\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}")


def documents(path: Path) -> list[Any]:
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found is not None]


def services(path: Path) -> dict[str, dict[str, Any]]:
    [document] = documents(path)
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """As compose does it: ${NAME}, ${NAME:-default}, ${NAME:?}, and $$ for a dollar. KeyError for a missing one."""

    def put(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        if name is None:
            return "$"
        return values.get(name) or default if kind == ":-" else values[name]

    return _VARIABLE.sub(put, text)


def variables(path: Path) -> set[str]:
    """Names that compose must find in the environment or in .env, or that have a default."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    # Without a value, a variable of a service has that of the same name.
    environments = [one["environment"] for one in mappings(documents(path)) if "environment" in one]
    passed = {name for one in environments for name, value in one.items() if value is None}
    return passed | {match[1] for match in _VARIABLE.finditer(text) if match[1]}


def mappings(value: object) -> Iterator[dict[str, Any]]:
    """Every mapping in a document, from the outside in."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from mappings(one)

"""An empty parameter is refused by each route: it is a mistake of the caller, and not the wish to have everything."""

import pytest

from usage_pipeline.api.app import create_app
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.rigs.service import Shared

# The document is the same whatever the settings are, and nothing is connected to.
PATHS = create_app(load_settings()).openapi()["paths"]
PARAMETERS = [
    (path, parameter["name"])
    for path, methods in PATHS.items()
    for parameter in methods.get("get", {}).get("parameters", ())
    # Requests of no key can be asked for: an empty text stands for none.
    if parameter["in"] == "query" and parameter["name"] != "filter.api_key"
]


def test_there_are_parameters_to_try() -> None:
    assert {"from", "to", "limit", "after", "format"} <= {name for _, name in PARAMETERS}


@pytest.mark.parametrize(("path", "name"), PARAMETERS)
def test_an_empty_parameter_is_refused_by_its_name(shared: Shared, path: str, name: str) -> None:
    answer = shared.client.get(path.replace("{id}", "1"), params={name: ""})
    assert answer.status_code == 422, answer.text
    assert name in answer.json()["detail"]

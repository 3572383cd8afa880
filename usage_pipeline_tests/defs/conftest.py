"""The code location on the test's own servers, and an instance in memory."""

from collections.abc import Iterator

import dagster as dg
import pytest

from usage_pipeline.definitions import build_definitions
from usage_pipeline.settings import Settings


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def definitions(settings: Settings) -> dg.Definitions:
    return build_definitions({"settings": settings})

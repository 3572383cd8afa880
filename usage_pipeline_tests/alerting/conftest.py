"""A webhook for each test that asks."""

from collections.abc import Iterator

import pytest

from usage_pipeline_tests.rigs.alerts import Webhook, webhook


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running

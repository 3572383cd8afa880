"""Senders at a service of the test's own."""

from collections.abc import Iterator

import psycopg
import pytest

from usage_pipeline_tests.api.bound.senders import Senders, senders_of
from usage_pipeline_tests.rigs.service import Service


@pytest.fixture
def senders(service: Service, postgres: psycopg.Connection) -> Iterator[Senders]:
    with senders_of(service, postgres) as senders:
        yield senders

"""Schemathesis sends each route what its OpenAPI says and what it does not, with and without a token: nothing fails inside."""

import os
from collections.abc import Iterator

import psycopg
import pytest
import redis
import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

from usage_pipeline.api.app import create_app
from usage_pipeline.local.servers.ports import free_port
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.rigs.service import Service, new_token, serving

# `make fuzz` asks for as many as half an hour has time for, and for other ones each time.
_FEW_EXAMPLES = 15
_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", _FEW_EXAMPLES))

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    ignored_auth,
]


@pytest.fixture(scope="module")
def settings_of_module(servers, databases) -> Iterator[Settings]:  # type: ignore[no-untyped-def]  # fixtures of the session
    name = databases.take()
    with redis.Redis.from_url(servers.redis_url) as cache:
        cache.flushall()
    yield load_settings(
        database_url=servers.postgres.url(name),
        redis_url=servers.redis_url,
        # Nobody is there: each post is its fallback, at once.
        external_api_base_url=f"http://127.0.0.1:{free_port()}",
        external_api_max_retries=1,
    )
    databases.drop(name)


@pytest.fixture(scope="module")
def running(settings_of_module: Settings) -> Iterator[tuple[Service, str]]:
    with (
        psycopg.connect(settings_of_module.database_url.get_secret_value(), autocommit=True) as connection,
        serving(settings_of_module) as service,
    ):
        yield service, new_token(connection, "read", "ingest", "correct")


@schemathesis.serializer("application/x-protobuf")
def as_it_is(_: object, value: object) -> bytes:
    """Any bytes: schemathesis knows no protobuf."""
    return bytes(value) if isinstance(value, bytes | bytearray) else str(getattr(value, "data", value)).encode()


# The document is the same whatever the settings are, and nothing is connected to.
schema = schemathesis.openapi.from_dict(create_app(load_settings()).openapi())


@schema.parametrize()
@hypothesis_settings(
    max_examples=_EXAMPLES,
    derandomize=_EXAMPLES == _FEW_EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_that_is_sent_to_a_route_fails_inside_and_every_answer_is_a_documented_one(
    case: Case, running: tuple[Service, str]
) -> None:
    service, token = running
    case.call_and_validate(
        base_url=f"http://127.0.0.1:{service.port}",
        headers={"Authorization": f"Bearer {token}"},
        checks=CHECKS,
        timeout=60,
    )

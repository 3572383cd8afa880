"""TLS as docs/operations.md promises it: a server is believed when its authority is known and the name is its own."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from usage_recorder.recorder import Recorder

from usage_pipeline.api.storing import Storing
from usage_pipeline.local.processes.dagster import for_dagster
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect, connect_async
from usage_pipeline.storage.quick_redis import QuickRedis
from usage_pipeline.storage.redis import PinnedConnection, RedisUnavailable, client
from usage_pipeline_tests.deploy.tls_front import Authority, tls_in_front_of
from usage_pipeline_tests.rigs.deployment_files import DEPLOY

SYSTEM = "sslmode=verify-full&sslrootcert=system"
# By the variable alone, as the image has it; and as Dagster's storage connects, which is not ours.
CONNECTS = "import sys, {0}; {0}.connect(sys.argv[1]).close()"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def nobody_says_where_authorities_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image before it said so; a developer's machine may."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name)


@pytest.fixture
def system_knows(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usage_pipeline.storage.connecting.database._SYSTEM_AUTHORITIES", (str(authority.file),))


@pytest.fixture(scope="module")
def postgres_port(servers: LocalServers, authority: Authority) -> Iterator[int]:
    def plain() -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(servers.postgres.socket_folder / ".s.PGSQL.5432"))
        return one

    with tls_in_front_of(plain, authority.server_context("localhost"), asks_first=True) as port:
        yield port


@pytest.fixture
def url(postgres_port: int, database_url: str) -> Callable[[str], str]:
    """The URL of a migrated database over TLS, by the host name that the certificate has unless another one is said."""
    name = urlsplit(database_url).path

    def make(parameters: str, host: str = "localhost") -> str:
        return f"postgresql://postgres@{host}:{postgres_port}{name}?{parameters}"

    return make


def is_encrypted(connection: psycopg.Connection | psycopg.AsyncConnection) -> bool:
    return connection.pgconn.ssl_in_use


@pytest.mark.usefixtures("system_knows")
def test_every_way_to_postgresql_believes_the_authorities_of_the_system(url: Callable[[str], str]) -> None:
    for parameters in (SYSTEM, "sslrootcert=system"):
        settings = load_settings(database_url=url(parameters))
        with connect(settings) as connection:
            assert is_encrypted(connection)
        storing = Storing(settings)
        storing.pool.open(wait=False)
        with closing(storing.pool), storing.pool.connection() as connection:
            assert is_encrypted(connection)

        async def look(settings: Settings = settings) -> bool:
            async with await connect_async(settings) as found:
                return is_encrypted(found)

        assert asyncio.run(look())
    assert migrate(url(SYSTEM))


@pytest.mark.usefixtures("system_knows")
def test_a_postgresql_with_another_name_is_not_believed(url: Callable[[str], str]) -> None:
    for parameters in (SYSTEM, "sslrootcert=system"):
        with pytest.raises(PostgresUnavailable, match="does not match host name"):
            connect(load_settings(database_url=url(parameters, "127.0.0.1")))


@pytest.mark.usefixtures("system_knows")
def test_the_system_s_authorities_are_for_full_verification_only(url: Callable[[str], str]) -> None:
    with pytest.raises(PostgresUnavailable, match="weak sslmode"):
        connect(load_settings(database_url=url("sslmode=require&sslrootcert=system")))


def test_a_postgresql_of_an_authority_that_the_system_does_not_know_is_not_believed(url: Callable[[str], str]) -> None:
    with pytest.raises(PostgresUnavailable, match="certificate verify failed"):
        connect(load_settings(database_url=url(SYSTEM)))


def test_a_postgresql_is_believed_by_the_file_of_its_authority(
    url: Callable[[str], str], authority: Authority, tmp_path: Path
) -> None:
    with connect(load_settings(database_url=url(f"sslmode=verify-full&sslrootcert={authority.file}"))) as connection:
        assert is_encrypted(connection)
    other = Authority.make(tmp_path, "other")
    with pytest.raises(PostgresUnavailable, match="certificate verify failed"):
        connect(load_settings(database_url=url(f"sslmode=verify-full&sslrootcert={other.file}")))


def test_ssl_cert_file_decides_when_it_is_set(
    url: Callable[[str], str], authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with connect(load_settings(database_url=url(SYSTEM))) as connection:
        assert is_encrypted(connection)
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority.make(tmp_path, "other").file))
    with pytest.raises(PostgresUnavailable, match="certificate verify failed"):
        connect(load_settings(database_url=url(SYSTEM)))


@pytest.mark.parametrize("library", ["psycopg", "psycopg2"])
def test_the_variable_of_the_image_is_what_the_libraries_of_its_wheels_heed(
    url: Callable[[str], str], authority: Authority, library: str
) -> None:
    """The bundles that wheels bring look for authorities where they were built."""
    command = [sys.executable, "-c", CONNECTS.format(library), url(SYSTEM)]
    [variable] = re.findall(r"^ENV .*?(SSL_\w+)=/etc/ssl/certs/ca-certificates.crt$", _dockerfile(), re.MULTILINE)
    done = subprocess.run(
        command, env=os.environ | {variable: str(authority.file)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(command, env=os.environ | {variable: "/nowhere"}, capture_output=True, text=True, timeout=60)
    assert "certificate verify failed" in done.stderr


@pytest.mark.usefixtures("system_knows")
def test_dev_hands_dagster_a_url_that_its_library_can_use(url: Callable[[str], str]) -> None:
    for parameters in (SYSTEM, "sslrootcert=system"):
        passed_on = for_dagster(url(parameters)).replace("postgresql+psycopg2://", "postgresql://")
        command = [sys.executable, "-c", CONNECTS.format("psycopg2"), passed_on]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def redis_at(
    servers: LocalServers, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Settings]]:
    """Settings of a Redis over TLS, by the host name that the certificate has unless another one is said."""
    # A handshake on a busy machine takes longer than a route would wait.
    monkeypatch.setattr("usage_pipeline.storage.quick_redis.TIMEOUT_SECONDS", 60)
    at = urlsplit(servers.redis_url)
    user = f":{at.password}@" if at.password else ""
    context = authority.server_context("localhost")
    with tls_in_front_of(lambda: socket.create_connection((LOOPBACK, at.port or 0)), context) as port:

        def make(host: str = "localhost", parameters: str = "") -> Settings:
            url = f"rediss://{user}{host}:{port}/0{parameters}"
            return load_settings(redis_url=url, connect_timeout_seconds=60)

        yield make


def pings(settings: Settings) -> dict[str, object]:
    """What each way to Redis says: an answer, or the error."""
    url = settings.redis_dsn.get_secret_value()

    async def quick() -> object:
        one = QuickRedis.of(settings)
        try:
            return await one.client.ping()
        finally:
            await one.close()

    def pinned() -> object:
        with closing(client(settings)) as pooled, PinnedConnection(pooled) as connection:
            return connection.call("PING") in (b"PONG", "PONG")

    def pooled() -> object:
        with closing(client(settings)) as one:
            return one.ping()

    def recorder() -> object:
        with closing(Recorder.connect(url, timeout_seconds=60)) as one:
            return one.pending("tls") is not None

    ways: dict[str, Callable[[], object]] = {
        "client": pooled,
        "pinned": pinned,
        "quick": lambda: asyncio.run(quick()),
        "recorder": recorder,
    }
    answers: dict[str, object] = {}
    for name, ask in ways.items():
        try:
            answers[name] = ask()
        except (redis.RedisError, RedisUnavailable, OSError) as error:
            answers[name] = str(error)
    return answers


def test_every_way_to_redis_believes_the_authorities_of_ssl_cert_file(
    redis_at: Callable[..., Settings], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    assert set(pings(redis_at()).values()) == {True}


def test_every_way_to_redis_believes_the_authority_that_its_url_names(
    redis_at: Callable[..., Settings], authority: Authority
) -> None:
    assert set(pings(redis_at(parameters=f"?ssl_ca_certs={authority.file}")).values()) == {True}


def test_no_way_to_redis_believes_another_name_or_an_unknown_authority(
    redis_at: Callable[..., Settings], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = pings(redis_at())
    assert unknown.pop("recorder") is False
    assert all("CERTIFICATE_VERIFY_FAILED" in str(said) for said in unknown.values()), unknown
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    for said in pings(redis_at("127.0.0.1")).values():
        assert said is False or "IP address mismatch" in str(said)


def _dockerfile() -> str:
    return re.sub(r" \\\n +", "\nENV ", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))

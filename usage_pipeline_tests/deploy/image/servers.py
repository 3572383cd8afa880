"""PostgreSQL and Redis for containers on this machine's network: the embedded programs, each on a loopback address of its own.

The names and ports are those of compose, so its URLs hold as they are: no other process has these addresses.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis
from psycopg import sql

from usage_pipeline.local.servers.account import Account
from usage_pipeline.local.servers.postgres import RunningPostgres, start_postgres, stop_postgres
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline_tests.rigs.deployment_files import CELERY_COMPOSE, COMPOSE, interpolated, services
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.storage.roles.prepared_server import PASSWORD, prepare_server

# Passwords are asked for, as on a server of somebody else's.
_WHO_MAY_CONNECT = "local all all trust\nhost all all 127.0.0.0/8 scram-sha-256\n"
_HOSTS = ("postgres", "redis", "celery-broker", "webserver", "webserver-read-only", "api")


@dataclass(frozen=True)
class Addresses:
    """By service of compose: loopback addresses that follow from the number of this process."""

    of: Mapping[str, str]

    @classmethod
    def mine(cls) -> "Addresses":
        number = os.getpid() % 65_536
        return cls(
            {name: f"127.{100 + number // 256 % 100}.{number % 256}.{last}" for last, name in enumerate(_HOSTS, 1)}
        )


@dataclass(frozen=True)
class Servers:
    addresses: Addresses
    postgres: RunningPostgres
    redis_url: str


@contextmanager
def running_servers(folder: Path) -> Iterator[Servers]:
    """PostgreSQL as create_databases.sh prepares it, and both Redis servers of compose, by their own commands."""
    addresses = Addresses.mine()
    try:
        postgres = start_postgres(folder / "postgres", durable=False)
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            address = sql.Literal(addresses.of["postgres"])
            connection.execute(sql.SQL("alter system set listen_addresses = {}").format(address))
        (postgres.data_folder / "pg_hba.conf").write_text(_WHO_MAY_CONNECT)
        postgres = start_postgres(folder / "postgres", durable=False)
        prepare_server(postgres)
        with _redis("redis", folder, addresses) as url, _redis("celery-broker", folder, addresses):
            yield Servers(addresses, postgres, url)
    finally:
        stop_postgres(folder / "postgres")


@contextmanager
def _redis(service: str, folder: Path, addresses: Addresses) -> Iterator[str]:
    described = (services(CELERY_COMPOSE) | services(COMPOSE))[service]
    account = Account.of_servers()
    data = account.home_of(folder / service)
    passwords = {"REDIS_PASSWORD": PASSWORD, "CELERY_BROKER_PASSWORD": PASSWORD}
    variables = {name: interpolated(value, passwords) for name, value in described["environment"].items()}
    *shell, script = (interpolated(argument, {}) for argument in described["command"])
    script = script.replace("dir /data", f"dir {data}\nbind {addresses.of[service]}")
    path = f"{account.programs(redis_executable().parent)}{os.pathsep}{os.environ['PATH']}"
    url = f"redis://:{PASSWORD}@{addresses.of[service]}:6379/0"
    log = folder / f"{service}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*shell, script], env=variables | {"PATH": path}, stdout=output, stderr=output, **account.process_options
        )
    try:
        with redis.Redis.from_url(url) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return bool(client.ping())
                except redis.ConnectionError:
                    return False

            wait_until(answers, f"{service} answers", 30)
        yield url
    finally:
        process.terminate()
        process.wait(30)

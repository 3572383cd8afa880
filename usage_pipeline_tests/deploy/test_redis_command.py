"""The Redis servers of compose, started by their own commands: durable, bounded, and no password is among the arguments."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline_tests.rigs.deployment_files import CELERY_COMPOSE, COMPOSE, interpolated, services
from usage_pipeline_tests.rigs.waiting import wait_until

PASSWORD = "a1b2c3"


REDIS, BROKER = "redis", "celery-broker"


@pytest.fixture(params=[REDIS, BROKER])
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[psutil.Process, redis.Redis]]:
    service = (services(CELERY_COMPOSE) | services(COMPOSE))[request.param]
    values = {"REDIS_PASSWORD": PASSWORD, "CELERY_BROKER_PASSWORD": PASSWORD}
    variables = {name: interpolated(value, values) for name, value in service["environment"].items()}
    *shell, script = (interpolated(argument, {}) for argument in service["command"])
    # A socket instead of a port: nothing else of it is changed.
    script = script.replace("dir /data", f"dir {folder}\nport 0\nunixsocket {folder}/socket")
    path = f"{redis_executable().parent}{os.pathsep}{os.environ['PATH']}"
    with (
        subprocess.Popen([*shell, script], env=variables | {"PATH": path}, stdout=subprocess.DEVNULL) as process,
        redis.Redis(unix_socket_path=f"{folder}/socket", password=PASSWORD, decode_responses=True) as client,
    ):

        def is_there() -> bool:
            assert process.poll() is None, "it ended"
            return (folder / "socket").exists()

        wait_until(is_there, "it listens", 20)
        yield psutil.Process(process.pid), client
        process.terminate()
        assert process.wait(20) == 0, "SIGTERM reaches it, since the shell is gone"


def test_redis_keeps_what_it_acknowledges_and_refuses_rather_than_evicts(
    server: tuple[psutil.Process, redis.Redis], request: pytest.FixtureRequest
) -> None:
    process, client = server
    is_broker = request.node.callspec.params["server"] == BROKER
    wanted = {"appendonly": "yes", "appendfsync": "everysec" if is_broker else "always", "save": ""}
    wanted["maxmemory-policy"] = "noeviction"
    assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert int(client.config_get("maxmemory")["maxmemory"]) == (64 if is_broker else 768) * 2**20
    assert PASSWORD not in " ".join(process.cmdline())
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(unix_socket_path=client.connection_pool.connection_kwargs["path"]).ping()

"""A Redis primary with a replica, watched by three real sentinels, which promote the replica when the primary dies."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline.local.servers.redis import redis_executable
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.servers import RedisServer

NAME = "mymaster"
_QUORUM = 2


class Watched:
    """Both servers and their sentinels, with passwords of their own, started on entry and ended on exit."""

    password, sentinel_password = "p@ss/word", "s&ntinel"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        config = (f'requirepass "{self.password}"', f'masterauth "{self.password}"', "repl-diskless-sync-delay 0")
        self.primary, self.replica = (RedisServer(folder / name, config) for name in ("first", "second"))
        self._ports = [free_port() for _ in range(3)]
        self._sentinels: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        places = ",".join(f"{LOOPBACK}:{port}" for port in self._ports)
        return f"redis+sentinel://:p%40ss%2Fword@{places}/{NAME}/0?sentinel_password=s%26ntinel"

    def __enter__(self) -> Self:
        try:
            self.primary.start(password=self.password)
            self.replica.start(f"replicaof {LOOPBACK} {self.primary.port}", password=self.password)
            self._sentinels = [self._start_sentinel(port) for port in self._ports]
            wait_until(self._know_each_other, "the sentinels know each other and the replica")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def client(self, server: RedisServer) -> redis.Redis:
        return redis.Redis(host=LOOPBACK, port=server.port, password=self.password, socket_timeout=10)

    def fail_over(self) -> None:
        """Kills the primary, and returns when the sentinels have promoted the replica."""
        self.primary.kill()
        wait_until(lambda: self._promoted() == self.replica.port, "the sentinels promote the replica")

    def end_sentinel(self, number: int) -> None:
        """The one that comes first in the URL has the number 0."""
        self._sentinels[number].kill()
        self._sentinels[number].wait()

    def _promoted(self) -> int:
        return int(self._ask(self._ports[-1], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def _know_each_other(self) -> bool:
        for port in self._ports:
            try:
                flat = self._ask(port, "SENTINEL", "MASTER", NAME)
            except redis.RedisError:
                return False
            facts = dict(zip(flat[::2], flat[1::2], strict=True))
            if (facts[b"num-slaves"], facts[b"num-other-sentinels"], facts[b"flags"]) != (b"1", b"2", b"master"):
                return False
        return True

    def _ask(self, port: int, *words: str) -> list[bytes]:
        with redis.Redis(host=LOOPBACK, port=port, password=self.sentinel_password, protocol=2) as client:
            # Without redis-py's reading of an answer, which differs from version to version.
            client.response_callbacks.clear()
            answer: list[bytes] = client.execute_command(*words)
            return answer

    def _start_sentinel(self, port: int) -> subprocess.Popen[bytes]:
        folder = self._folder / f"sentinel-{port}"
        folder.mkdir()
        lines = (
            f"bind {LOOPBACK}",
            f"port {port}",
            f'requirepass "{self.sentinel_password}"',
            f"sentinel monitor {NAME} {LOOPBACK} {self.primary.port} {_QUORUM}",
            f"sentinel auth-pass {NAME} {self.password}",
            f"sentinel down-after-milliseconds {NAME} 1000",
            f"sentinel failover-timeout {NAME} 10000",
            "logfile sentinel.log",
        )
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        return subprocess.Popen(
            [str(redis_executable()), "sentinel.conf", "--sentinel"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _end(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait()
        self.replica.stop()
        self.primary.stop()

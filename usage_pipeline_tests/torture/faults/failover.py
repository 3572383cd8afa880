"""A Redis primary with a replica, each reached through a proxy: drainers and writers by one address whatever is primary,
the replica by a link that can hold back what it has not received yet.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.proxy import Proxy
from usage_pipeline_tests.torture.servers import RedisServer, Stage

# A replica is there a moment after it has asked, not at the primary's next second.
_SYNC_AT_ONCE = ("repl-diskless-sync yes", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")


class Pair:
    """Two servers of which one is the primary. Use `front` for everything but replication."""

    def __init__(self, stage: Stage, config: Sequence[str], *, executable: Path | None = None) -> None:
        self.primary, self.replica, self._second_replica = (
            stage.redis((*config, *_SYNC_AT_ONCE), executable=executable) for _ in range(3)
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(lambda: self._second_replica.stop())
            stack.callback(lambda: self.replica.stop())
            stack.callback(lambda: self.primary.stop())
            self.primary.start()
            self.front = stack.enter_context(Proxy(self.primary.port))
            self.link = stack.enter_context(Proxy(self.primary.port))
            self._attach()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def fail_over(self) -> None:
        """Kills the primary and promotes the replica with what it has received; what the link held back is forgotten."""
        self.front.cut()
        self.primary.kill()
        self.link.cut()
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")
        self.primary, self.replica = self.replica, self.primary
        self.front.point_to(self.primary.port)

    def rejoin(self) -> None:
        """The former primary comes back, empty, as the replica of the present one."""
        self.link.point_to(self.primary.port)
        self._attach()

    def attach_second_replica(self) -> None:
        """A replica of the replica, which stays its own when that is promoted."""
        self._second_replica.start(f"replicaof {LOOPBACK} {self.replica.port}")
        wait_until(lambda: _is_synced(self._second_replica), "the second replica is in sync")

    def has_second_replica(self) -> bool:
        return _is_synced(self._second_replica) and _replicas(self.primary) == 1

    def _attach(self) -> None:
        self.replica.start(f"replicaof {LOOPBACK} {self.link.port}", anew=True)
        wait_until(lambda: _is_synced(self.replica) and _replicas(self.primary) == 1, "the replica is in sync")


def _is_synced(server: RedisServer) -> bool:
    with server.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def _replicas(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("replication")["connected_slaves"])

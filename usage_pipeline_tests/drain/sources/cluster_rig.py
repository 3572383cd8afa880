"""A Redis Cluster of real servers on loopback ports, whose slots can be moved and whose nodes can be killed."""

import select
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.servers import valkey_executable

SLOTS = 16_384
_TIMEOUT_SECONDS = 30


class Node:
    """One server of the cluster, in a folder of its own, where it finds its data and its slots again after a crash."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.port, self._bus_port = free_port(), free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self.client = redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=_TIMEOUT_SECONDS)
        self.start()
        self.node_id = self.ask("CLUSTER", "MYID").decode()
        self.first_slots = range(0)

    def start(self) -> None:
        options = {
            "bind": LOOPBACK,
            "port": self.port,
            "cluster-enabled": "yes",
            "cluster-port": self._bus_port,
            "cluster-announce-ip": LOOPBACK,
            # A test that stops a server for a moment is no fail-over.
            "cluster-node-timeout": 60_000,
            # A primary that gave its last slot away stays one.
            "cluster-allow-replica-migration": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [str(valkey_executable()), *arguments], cwd=self._folder, stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(self._answers, f"the server answers on port {self.port}", _TIMEOUT_SECONDS)

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the server on port {self.port} ended"
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, *command: str | bytes | int) -> bytes:
        answer: bytes = self.client.execute_command(*command)
        return answer

    def slots(self) -> set[int]:
        """Those that it owns, as it sees that itself."""
        mine = [line for line in self.ask("CLUSTER", "NODES").decode().splitlines() if "myself" in line]
        ranges = [part.split("-") for part in mine[0].split()[8:] if not part.startswith("[")]
        return {slot for bounds in ranges for slot in range(int(bounds[0]), int(bounds[-1]) + 1)}


class Cluster:
    """Three primaries that share the slots. `client` follows moves and does not retry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes: list[Node] = []
        self._stack = ExitStack()
        try:
            for number in range(3):
                node = self._start(f"node{number}")
                first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
                node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
                node.first_slots = range(first, last + 1)
            self._meet()
        except BaseException:
            self.close()
            raise
        self.client = self._stack.enter_context(closing(self.connect()))

    def connect(self) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(
            self.nodes[0].url, protocol=2, socket_timeout=_TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0)
        )

    @property
    def url(self) -> str:
        """Of any one node."""
        return self.nodes[2].url

    def fourth_primary(self) -> Node:
        """A further primary, without slots; it joins when it is first asked for."""
        if len(self.nodes) == 3:
            self._start("node3")
            self._meet()
        return self.nodes[3]

    def owner(self, slot: int) -> Node:
        """The primary that says so of itself; for a moment after a move there may be none."""
        found: list[Node] = []

        def is_found() -> bool:
            found[:] = [node for node in self.nodes if slot in node.slots()]
            return bool(found)

        wait_until(is_found, f"slot {slot} has an owner", _TIMEOUT_SECONDS)
        return found[0]

    def begin_move(self, slot: int, target: Node) -> None:
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)

    def move_keys(self, slot: int, target: Node, *, only: Callable[[bytes], bool] = lambda key: True) -> int:
        """Of a slot whose move has begun; answers how many."""
        source = self.owner(slot)
        keys = [key for key in source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1_000) if only(key)]
        for key in keys:
            # A key may have gone since: then the answer is NOKEY.
            source.ask("MIGRATE", LOOPBACK, target.port, key, 0, _TIMEOUT_SECONDS * 1_000)
        return len(keys)

    def end_move(self, slot: int, target: Node) -> None:
        source = self.owner(slot)
        self.move_keys(slot, target)
        for node in (target, source, *(other for other in self.nodes if other not in (target, source))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)

    def move_back(self) -> None:
        """Every slot to the primary that it had at the start."""
        for node in self.nodes:
            for slot in node.slots().difference(node.first_slots):
                self.move(slot, next(home for home in self.nodes if slot in home.first_slots))

    def move(self, slot: int, target: Node) -> None:
        self.begin_move(slot, target)
        self.end_move(slot, target)

    def wait_until_ok(self) -> None:
        wait_until(self._is_ok, "the cluster is ok", _TIMEOUT_SECONDS, poll_seconds=0.02)

    def empty(self) -> None:
        for node in self.nodes:
            node.ask("FLUSHALL")
            node.ask("CONFIG", "SET", "appendfsync", "always")

    def close(self) -> None:
        self._stack.close()

    def _start(self, name: str) -> Node:
        node = Node(self._folder / name)
        self.nodes.append(node)
        self._stack.callback(node.client.close)
        self._stack.callback(node.kill)
        return node

    def _meet(self) -> None:
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", LOOPBACK, node.port, node._bus_port)
        self.wait_until_ok()

    def _is_ok(self) -> bool:
        owners = {slot: node.node_id for node in self.nodes for slot in node.slots()}
        return len(owners) == SLOTS and all(self._sees_all(node) for node in self.nodes)

    def _sees_all(self, node: Node) -> bool:
        info = dict(line.split(":", 1) for line in node.ask("CLUSTER", "INFO").decode().split())
        nodes = node.ask("CLUSTER", "NODES").decode()
        return (
            info["cluster_state"] == "ok"
            and info["cluster_known_nodes"] == str(len(self.nodes))
            and not any(flag in nodes for flag in ("handshake", "fail", "disconnected"))
        )


class _LosesAnswers(socketserver.BaseRequestHandler):
    """Passes everything on to a node, but no answer once a command with a certain word was asked on the connection."""

    port: int
    word: bytes

    def handle(self) -> None:
        with socket.create_connection((LOOPBACK, self.port)) as node:
            answers_pass = True
            while True:
                for ready in select.select([self.request, node], [], [])[0]:
                    data = ready.recv(65_536)
                    if not data:
                        return
                    if ready is self.request:
                        answers_pass = answers_pass and self.word not in data
                        node.sendall(data)
                    elif answers_pass:
                        self.request.sendall(data)


@contextmanager
def losing_answers(node: Node, word: bytes) -> Iterator[int]:
    """The port of a way to the node on which answers to commands with the word are lost."""
    handler = type("Handler", (_LosesAnswers,), {"port": node.port, "word": word})
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy.server_address[1]
        finally:
            proxy.shutdown()


def slot_of(key: str | bytes) -> int:
    return key_slot(key.encode() if isinstance(key, str) else key)

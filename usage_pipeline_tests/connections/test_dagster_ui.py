"""`usage-pipeline-webserver` under attack by connections: half-sent requests, silence, and subscriptions without number."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from usage_pipeline.local.servers.ports import free_port
from usage_pipeline_tests.connections.sockets import HEAD, connected, files, is_closed
from usage_pipeline_tests.rigs.service import answer_of
from usage_pipeline_tests.rigs.waiting import wait_until

_START = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)),) * 2)
from usage_pipeline.defs.webserver import main
main()
"""


@dataclass(frozen=True)
class Webserver:
    """Dagster's web server behind the guard, without a code location."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serves(self) -> bool:
        """Whether a new client gets the page of the probes, and an answer of GraphQL."""
        with suppress(httpx.TransportError), httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            health = client.get("/server_info").status_code
            answer = client.post("/graphql", json={"query": "{ version }"}).json()
            return health == 200 and bool(answer["data"]["version"])
        return False

    @contextmanager
    def subscribed(self, source: str = "127.0.0.1") -> Iterator[ClientConnection]:
        """A WebSocket, as the page opens it."""
        address, subprotocol = self.url.replace("http", "ws") + "/graphql", Subprotocol("graphql-ws")
        own = connected(self.port, source)
        with connect(address, sock=own, origin=Origin(self.url), subprotocols=[subprotocol], proxy=None) as one:
            assert lives(one)
            yield one


@contextmanager
def webserver(folder: Path, open_files: int = 4_096, **variables: str) -> Iterator[Webserver]:
    port, log = free_port(), folder / "webserver.log"
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [sys.executable, "-c", _START, str(open_files), "--empty-workspace", "--port", str(port)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "DAGSTER_HOME": str(folder), **variables}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    running = Webserver(port, log, process)
    try:
        wait_until(running.serves, "it serves", 120, log=log.read_text)
        yield running
    finally:
        process.kill()
        process.wait()


def lives(page: ClientConnection) -> bool:
    """Whether a subscription still gets answers."""
    with suppress(ConnectionClosed):
        page.send('{"type": "connection_init"}')
        return "connection_ack" in str(page.recv(timeout=30))
    return False


def test_as_many_half_sent_requests_as_files_keep_nobody_out(tmp_path: Path) -> None:
    """The attack of the review: 1,024 files, and nothing closed what was half sent."""
    with files(2_000), ExitStack() as stack, webserver(tmp_path, 1_024, HEAD_TIMEOUT_SECONDS="600") as running:
        page = stack.enter_context(running.subscribed())
        for number in range(1_100):
            connection = stack.enter_context(closing(connected(running.port)))
            with suppress(ConnectionError):
                connection.sendall(HEAD)
            if number % 100 == 99:
                assert running.serves(), f"after {number + 1} half-sent requests"
        assert running.process.poll() is None
        assert lives(page), "a subscription from before lives"
        stack.enter_context(running.subscribed())
        log = running.log.read_text()
        assert log.count("MAX_CONNECTIONS_PER_ADDRESS") == 1, log
        assert log.count("ulimit -n") == 1, log


def test_a_server_that_may_asks_the_system_for_more_files(tmp_path: Path) -> None:
    with webserver(tmp_path) as running:
        assert resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)[0] >= 1_200


def test_what_is_half_sent_is_closed_in_time_and_what_the_page_holds_is_not(tmp_path: Path) -> None:
    with webserver(tmp_path, HEAD_TIMEOUT_SECONDS="1") as running, running.subscribed() as page, ExitStack() as stack:
        kept = stack.enter_context(closing(HTTPConnection("127.0.0.1", running.port, timeout=30)))
        silent = stack.enter_context(closing(connected(running.port)))
        half = [stack.enter_context(closing(connected(running.port))) for _ in range(3)]
        half[0].sendall(HEAD)
        half[1].sendall(b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Len")
        half[2].sendall(HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 9")
        used = set()
        for _ in range(3):
            kept.request("GET", "/server_info")
            assert kept.getresponse().read()
            assert kept.sock is not None
            used.add(kept.sock.getsockname())
        assert len(used) == 1, "one connection for all requests"
        assert [answer_of(one)[0] for one in half] == [408, 408, 408]
        wait_until(lambda: is_closed(silent), "nothing came, and it is closed", 30)
        assert lives(page)


def test_subscriptions_of_one_address_leave_room_for_all_else(tmp_path: Path) -> None:
    with webserver(tmp_path, MAX_CONNECTIONS_PER_ADDRESS="8") as running, running.subscribed() as other:
        # More than once: the places of those that have ended are free.
        for _ in range(2):
            with ExitStack() as stack:
                pages = [stack.enter_context(running.subscribed("127.0.0.2")) for _ in range(12)]
                assert [lives(page) for page in pages] == [False] * 8 + [True] * 4
                assert lives(other)
                assert running.serves()
                with closing(connected(running.port, "127.0.0.2")) as one_more:
                    one_more.sendall(b"GET /server_info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    assert one_more.recv(12) == b"HTTP/1.1 200"
        log = running.log.read_text()
        assert log.count("4 WebSockets from 127.0.0.2: for each more, the oldest is closed") in (1, 2), log
        assert "Traceback" not in log


def test_a_subscription_behind_a_request_that_is_not_answered_yet_is_refused(tmp_path: Path) -> None:
    question = b'{"query": "{ version }"}'
    host = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(question)}\r\n\r\n".encode()
    socket_key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    upgrade = b"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" + socket_key
    with webserver(tmp_path) as running:
        for begin, status in ((b"", b"HTTP/1.1 101"), (b"POST /graphql HTTP/1.1\r\n" + host + question, b"")):
            with closing(connected(running.port)) as connection:
                connection.sendall(begin + upgrade + b"\r\n")
                assert connection.recv(12) == status
        assert running.serves()
        assert "Traceback" not in running.log.read_text()

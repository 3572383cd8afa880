"""What anybody can do before a token is asked for: heads without end, connections without number, answers that nobody reads."""

import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from usage_pipeline.api import connections
from usage_pipeline.api.connections import MAX_FIELDS, MAX_HEAD_BYTES, MAX_PIPELINED
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.api.api_process import ApiProcess, api_process
from usage_pipeline_tests.conftest import Databases
from usage_pipeline_tests.rigs.service import Service, answer_of, serving
from usage_pipeline_tests.rigs.waiting import wait_until

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
MEGABYTE = 2**20
ENDLESS = {
    "lines": (HEAD, b"a:b\r\n"),
    "value": (HEAD + b"a: ", b"x"),
    "name": (HEAD, b"x"),
    "url": (b"GET /", b"x"),
    "trailers": (
        b"POST /api/v1/ingest/requests:bulk HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"a:b\r\n",
    ),
    "trailer": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na:", b"x"),
    "chunk": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "requests": (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
}


@pytest.fixture(scope="module")
def running(
    servers: LocalServers, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    name = databases.take()
    settings = load_settings(database_url=servers.postgres.url(name), redis_url=servers.redis_url)
    with api_process(settings, tmp_path_factory.mktemp("api")) as process:
        yield process
    databases.drop(name)


def connected(port: int, address: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection on which it has nothing to say."""
    connection.setblocking(False)
    try:
        return connection.recv(65_536, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def ends_at(port: int) -> list[tuple[str, int]]:
    """The other ends of the connections that a service in this process has open."""
    every = psutil.Process().net_connections("tcp")
    return [tuple(one.raddr) for one in every if one.laddr[1] == port and one.raddr]


@contextmanager
def files(count: int) -> Iterator[None]:
    """This process may open so many."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_request_without_end_is_cut_and_costs_no_memory(running: ApiProcess, kind: str) -> None:
    begin, piece = ENDLESS[kind]
    one = piece * (MEGABYTE // len(piece))
    before = psutil.Process(running.process.pid).memory_info().rss
    peak = before
    sent = 0
    with closing(connected(running.port)) as connection, suppress(ConnectionError):
        connection.sendall(begin)
        for _ in range(24):
            connection.sendall(one)
            sent += len(one)
            peak = max(peak, psutil.Process(running.process.pid).memory_info().rss)
    assert sent < 24 * len(one), "more than what is on its way between two sockets was taken"
    assert peak - before < 24 * MEGABYTE
    assert running.answers()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD + b"a: " + b"x" * MAX_HEAD_BYTES, 431),
        (HEAD + b"x" * MAX_HEAD_BYTES, 431),
        (HEAD + b"a: b\r\n" * (MAX_FIELDS + 1), 431),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6 + 1), 431),
    ],
    ids=["value", "name", "fields", "url", "lines"],
)
def test_a_head_over_the_limit_is_told_why(settings: Settings, head: bytes, status: int) -> None:
    with serving(settings) as service, closing(connected(service.port)) as connection:
        connection.sendall(head)
        came, headers, document = answer_of(connection)
        assert (came, headers["content-type"], headers["connection"]) == (status, "application/problem+json", "close")
        assert f"at most {MAX_HEAD_BYTES} bytes" in document["detail"]


def test_a_head_just_below_the_limit_is_answered_also_after_another_request(settings: Settings) -> None:
    with serving(settings) as service, httpx.Client(base_url=service.client.base_url, trust_env=False) as client:
        for _ in range(3):
            assert client.get("/", headers={"a": "x" * (MAX_HEAD_BYTES - 1_000)}).status_code == 200
            assert client.get("/", headers={f"a{n}": "b" for n in range(MAX_FIELDS - 20)}).status_code == 200
            assert client.get("/?" + "x" * (MAX_HEAD_BYTES - 1_000)).status_code == 200


def test_requests_may_be_sent_before_the_first_answer(settings: Settings) -> None:
    with serving(settings) as service, closing(connected(service.port)) as connection:
        connection.sendall((HEAD + b"\r\n") * MAX_PIPELINED)
        whole = b""
        while whole.count(b"HTTP/1.1 200") < MAX_PIPELINED:
            piece = connection.recv(65_536)
            assert piece
            whole += piece


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", b""),
        (HEAD, b""),
        (HEAD, b"a"),
        (HEAD + b"\r\n", b""),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x"),
    ],
    ids=["silent", "half a head", "letter by letter", "after an answer", "a body that nobody reads", "of HEAD"],
)
def test_a_connection_that_gets_nowhere_is_closed(settings: Settings, begin: bytes, more: bytes) -> None:
    quick = settings.model_copy(update={"head_timeout_seconds": 1.0})
    with serving(quick) as service, closing(connected(service.port)) as connection:
        connection.sendall(begin)

        def is_over() -> bool:
            connection.setblocking(True)
            with suppress(TimeoutError):
                connection.settimeout(0.2)
                try:
                    if more:
                        connection.sendall(more)
                    return connection.recv(65_536) == b""
                except ConnectionError:
                    return True
            return False

        wait_until(is_over, "the connection is closed", 60)


def test_half_a_head_gets_408_in_the_end(settings: Settings) -> None:
    quick = settings.model_copy(update={"head_timeout_seconds": 0.5})
    with serving(quick) as service, closing(connected(service.port)) as connection:
        connection.sendall(HEAD)
        status, _, document = answer_of(connection)
        assert (status, document["type"]) == (408, "urn:usage-pipeline:request-timeout")


def bundle_of(service: Service) -> bytes:
    """The request for the largest file that anybody may ask for."""
    paths = [line.split('"')[0] for line in service.client.get("/docs").text.split('src="')[1:]]
    [script] = [path for path in paths if "bundle" in path]
    path = httpx.URL(f"http://127.0.0.1:{service.port}/docs").join(script).path
    return b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n"


def unreading(port: int) -> socket.socket:
    """A connection with a small window: an answer waits in the service, not on the way."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(("127.0.0.1", port))
    return connection


def test_an_answer_that_nobody_reads_is_given_up(settings: Settings) -> None:
    quick = settings.model_copy(update={"body_timeout_seconds": 0.5})
    with serving(quick) as service, closing(unreading(service.port)) as connection:
        connection.sendall(bundle_of(service))
        mine = connection.getsockname()
        assert mine in ends_at(service.port)
        wait_until(lambda: mine not in ends_at(service.port), "the service closes its end", 60)


def test_answers_that_nobody_reads_have_a_limit_together(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # Room for one answer, or for the rests of a few that the system has taken a part of.
    monkeypatch.setattr(connections, "MAX_UNSENT_BYTES", 2 * MEGABYTE)
    patient = settings.model_copy(update={"body_timeout_seconds": 600.0})
    with serving(patient) as service, ExitStack() as stack:
        request = bundle_of(service)
        names = []
        for _ in range(16):
            connection = stack.enter_context(closing(unreading(service.port)))
            names.append(connection.getsockname())
            # More than the system itself takes of it.
            connection.sendall(request * MAX_PIPELINED)
        # A new connection is taken after all of them.
        assert httpx.get(f"http://127.0.0.1:{service.port}/", timeout=60, trust_env=False).status_code == 200
        # Which of them waits longest is not known: the system takes more of one than of another.
        wait_until(lambda: len({*names} & {*ends_at(service.port)}) <= len(names) // 2, "most of them are cut", 60)
        assert {*names} & {*ends_at(service.port)}
        assert service.client.get("/").status_code == 200


def test_the_next_answer_is_made_when_the_one_before_is_read(settings: Settings) -> None:
    with serving(settings) as service, closing(unreading(service.port)) as connection:
        request = bundle_of(service)
        connection.sendall(request * MAX_PIPELINED)
        whole = 0
        connection.settimeout(60)
        size = None
        while size is None or whole < MAX_PIPELINED * size:
            piece = connection.recv(2**20)
            assert piece, "each of them comes"
            if size is None:
                head, _, _ = piece.partition(b"\r\n\r\n")
                [told] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
                size = int(told.split(b":")[1])
            whole += len(piece)


def test_as_many_half_sent_requests_as_files_keep_nobody_out(settings: Settings, tmp_path: Path) -> None:
    patient = {"HEAD_TIMEOUT_SECONDS": "600"}
    with files(2_000), ExitStack() as stack, api_process(settings, tmp_path, open_files=1_024, **patient) as running:
        for number in range(1_100):
            connection = stack.enter_context(closing(connected(running.port)))
            with suppress(ConnectionError):
                connection.sendall(HEAD)
            if number % 100 == 99:
                assert running.answers(), f"after {number + 1} half-sent requests"
        assert all(running.answers() for _ in range(20))
        log = running.log.read_text()
        assert log.count("MAX_CONNECTIONS_PER_ADDRESS") == 1, log
        assert "ulimit -n" in log


def test_one_address_with_many_connections_keeps_out_itself_only(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    few = settings.model_copy(update={"max_connections": 20, "max_connections_per_address": 5})
    caplog.set_level(logging.WARNING, "usage_pipeline.api.connections")
    with serving(few) as service, ExitStack() as stack:
        others = [stack.enter_context(closing(connected(service.port))) for _ in range(5)]
        flood = [stack.enter_context(closing(connected(service.port, "127.0.0.2"))) for _ in range(40)]
        for connection in flood:
            with suppress(ConnectionError):
                connection.sendall(HEAD)
        wait_until(lambda: sum(map(is_closed, flood)) == 35, "all but five are closed", 60)
        assert [is_closed(one) for one in flood[-5:]] == [False] * 5, "the newest ones stay"
        assert not any(map(is_closed, others))
        assert caplog.text.count("5 connections from 127.0.0.2 (MAX_CONNECTIONS_PER_ADDRESS)") == 1
        for connection in flood:
            connection.close()
        assert service.client.get("/").status_code == 200


def test_connections_that_work_are_not_closed_for_new_ones(settings: Settings, token: str) -> None:
    few = load_settings(
        database_url=settings.database_url.get_secret_value(),
        redis_url=settings.redis_dsn.get_secret_value(),
        max_connections=3,
    )
    with serving(few) as service, ExitStack() as stack:
        working = [stack.enter_context(closing(service.raw("Content-Length: 2", token=token))) for _ in range(3)]
        with closing(connected(service.port)) as one_more:
            status, headers, document = answer_of(one_more)
        assert (status, headers["retry-after"]) == (503, "2")
        assert "no more connections" in document["detail"]
        for connection in working:
            connection.sendall(b"[]")
            assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_second_episode_of_too_many_connections_is_told_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    few = settings.model_copy(update={"max_connections": 4})
    caplog.set_level(logging.WARNING, "usage_pipeline.api.connections")
    with serving(few) as service:
        for episode in (1, 2):
            with ExitStack() as stack:
                flood = [stack.enter_context(closing(connected(service.port))) for _ in range(12)]
                wait_until(lambda flood=flood: sum(map(is_closed, flood)) == 8, "all but four are closed", 60)
            wait_until(lambda: not ends_at(service.port), "they are gone", 60)
            assert caplog.text.count("4 connections in all (MAX_CONNECTIONS)") == episode

"""What anybody can do before a token is asked for: heads without end, connections without number, answers that nobody reads."""

import logging
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from usage_pipeline.api.connections.counting import MAX_UNSENT_BYTES, counted_as
from usage_pipeline.api.connections.protocol import MAX_AHEAD_BYTES
from usage_pipeline.api.connections.refusals import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_PARAMETERS,
    MAX_PATH_BYTES,
    MAX_PIPELINED,
    MAX_QUERY_BYTES,
)
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.api.api_process import ApiProcess, api_process
from usage_pipeline_tests.conftest import Databases
from usage_pipeline_tests.connections.sockets import HEAD, connected, deaf, files, is_closed
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Service, answer_of, new_token, serving
from usage_pipeline_tests.rigs.waiting import wait_until

MEGABYTE = 2**20
# Longer than a connection may be without a request (uvicorn's five seconds), and than a reader may stand still in that test.
SLOW_SECONDS = 7
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


@pytest.fixture
def token(postgres: psycopg.Connection) -> str:
    return new_token(postgres)


def large_file(service: Service) -> str:
    """The path of a file of over a megabyte that everybody may ask for."""
    scripts = [line.split('"')[0] for line in service.client.get("/docs").text.split('src="')[1:]]
    [bundle] = [path for path in scripts if "bundle" in path]
    return httpx.URL(f"http://127.0.0.1:{service.port}/docs").join(bundle).path


def ends_at(port: int) -> list[tuple[str, int]]:
    """The other ends of the connections that a service in this process has open."""
    every = psutil.Process().net_connections("tcp")
    return [tuple(one.raddr) for one in every if one.laddr[1] == port and one.raddr]


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
        (b"GET /" + b"x" * MAX_PATH_BYTES + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /?" + b"x" * (MAX_QUERY_BYTES + 1) + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /?" + b"&" * MAX_PARAMETERS + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6 + 1), 431),
    ],
    ids=["value", "name", "fields", "url", "path", "query", "parameters", "lines"],
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
            assert client.get("/?" + "x" * MAX_QUERY_BYTES).status_code == 200
            assert client.get("/?" + "&".join("x" * MAX_PARAMETERS)).status_code == 200


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


def test_an_answer_that_nobody_reads_is_given_up(settings: Settings) -> None:
    quick = settings.model_copy(update={"body_timeout_seconds": 0.5})
    with serving(quick) as service, closing(deaf(service.port)) as connection:
        connection.sendall(f"GET {large_file(service)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        mine = connection.getsockname()
        assert mine in ends_at(service.port)
        wait_until(lambda: mine not in ends_at(service.port), "the service closes its end", 60)


def test_an_answer_that_is_read_slowly_is_sent_to_its_end(settings: Settings) -> None:
    quick = settings.model_copy(update={"body_timeout_seconds": 0.5})
    with serving(quick) as service, closing(deaf(service.port)) as connection:
        path = large_file(service)
        size = int(service.client.get(path, headers={"Accept-Encoding": "identity"}).headers["content-length"])
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        began, came = time.monotonic(), 0
        while came < size and (piece := connection.recv(4_096)):
            came += len(piece)
            if time.monotonic() - began < SLOW_SECONDS:
                time.sleep(0.05)
        assert came >= size


def test_answers_that_nobody_reads_are_bounded_all_together(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "usage_pipeline.api.connections.counting")
    with serving(settings) as service, ExitStack() as stack:
        request = f"GET {large_file(service)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        flood = []
        for _ in range(2 * MAX_UNSENT_BYTES // MEGABYTE):
            flood.append(stack.enter_context(closing(deaf(service.port))))
            flood[-1].sendall(request)
        most, newest = MAX_UNSENT_BYTES // MEGABYTE, flood[-1].getsockname()
        wait_until(
            lambda: newest in (ends := ends_at(service.port)) and len(ends) <= most,
            "those that wait longest are cut, and the newest one stays",
            60,
        )
        assert caplog.text.count("clients that do not read") == 1
        assert service.client.get("/").status_code == 200


def test_who_does_not_read_takes_no_place_from_others_whatever_is_asked_behind(settings: Settings) -> None:
    few = settings.model_copy(update={"max_connections": 10})
    with serving(few) as service, ExitStack() as stack:
        path = large_file(service)
        service.client.close()
        for number in range(10):
            connection = stack.enter_context(closing(deaf(service.port, f"127.0.0.{2 + number % 2}")))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + HEAD + b"\r\n")
        wait_until(lambda: len(ends_at(service.port)) == 10, "all are open", 60)
        for _ in range(5):
            with closing(connected(service.port)) as one_more:
                one_more.sendall(HEAD + b"Connection: close\r\n\r\n")
                assert one_more.recv(12) == b"HTTP/1.1 200"


def test_what_is_sent_ahead_of_an_answer_is_bounded(settings: Settings) -> None:
    # Not `deaf`: with its full window it would drop the service's acknowledgements, and what is ahead would stay on the way.
    with serving(settings) as service, closing(connected(service.port)) as connection:
        mine = connection.getsockname()
        ahead = HEAD + b"a: " + b"x" * (MAX_AHEAD_BYTES + 16 * 1024) + b"\r\n\r\n"
        connection.sendall(f"GET {large_file(service)} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + ahead)
        wait_until(lambda: mine not in ends_at(service.port), "the service closes its end", 60)


def test_fields_behind_a_chunked_body_are_no_part_of_the_head(settings: Settings, token: str) -> None:
    body = b"2\r\n[]\r\n0\r\n"
    with serving(settings) as service:
        for begin, end, expected in (
            (b"", b"Authorization: Bearer " + token.encode() + b"\r\n", 401),
            (b"Authorization: Bearer " + token.encode() + b"\r\n", b"Content-Encoding: gzip\r\n", 200),
        ):
            with closing(connected(service.port)) as connection:
                head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
                connection.sendall(head + begin + b"Transfer-Encoding: chunked\r\n\r\n" + body + end + b"\r\n")
                assert answer_of(connection)[0] == expected


@pytest.mark.parametrize("path", ["/x", "/" + "%01" * 200], ids=["small", "larger"])
def test_who_reads_nothing_is_closed_also_after_an_address_that_cannot_be_read(settings: Settings, path: str) -> None:
    quick = settings.model_copy(update={"body_timeout_seconds": 0.5, "head_timeout_seconds": 0.5})
    with serving(quick) as service, closing(deaf(service.port)) as connection:
        mine = connection.getsockname()
        # Enough to fill what lies between: a few wait in the service, below what counts as stalled. Sent at once:
        # on a busy machine the service may close its end before the last of forty sends.
        requests = 40 * f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(requests.encode() + b"CONNECT a:1 HTTP/1.1\r\n\r\n")
        wait_until(lambda: mine not in ends_at(service.port), "the service closes its end", 60)


@pytest.mark.parametrize(
    "upgrade",
    [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
    ],
    ids=["h2c", "websocket"],
)
def test_an_upgrade_that_is_not_granted_loses_nothing_of_what_follows(
    settings: Settings, token: str, upgrade: str
) -> None:
    """Java's client asks for h2c with each request, also with those that have a body."""
    line = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head = f"{line}Authorization: Bearer {token}\r\n{upgrade}"
    whole = (
        f"GET / HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n"
        f"{head}Content-Length: 2\r\n\r\n[]"
        f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
        f"{head}Content-Length: 0\r\n\r\n"
        "GET /last HTTP/1.1\r\nHost: x\r\n\r\n"
    ).encode()
    with serving(settings) as service:
        for size in (1, 7, len(whole)):
            with closing(connected(service.port)) as connection:
                for begin in range(0, len(whole), size):
                    connection.sendall(whole[begin : begin + size])
                came = b""
                while b"/last" not in came:
                    piece = connection.recv(65_536)
                    assert piece, f"each is answered, came {came!r}"
                    came += piece
            assert re.findall(rb"HTTP/1.1 (\d+)", came) == [b"200", b"200", b"200", b"400", b"404"], came


@pytest.mark.parametrize(
    "sent", [b"\xff", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_request_is_answered_and_fills_no_log(running: ApiProcess, sent: bytes) -> None:
    before = running.log.stat().st_size
    for _ in range(5):
        with closing(connected(running.port)) as connection:
            connection.sendall(sent)
            status, headers, document = answer_of(connection)
        assert (status, headers["connection"], document["status"]) == (400, "close", 400)
    assert running.log.stat().st_size == before


def test_who_goes_away_with_requests_waiting_leaves_no_line(running: ApiProcess) -> None:
    before = running.log.stat().st_size
    for _ in range(20):
        with closing(connected(running.port)) as connection:
            connection.sendall((HEAD + b"\r\n") * MAX_PIPELINED)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert running.answers()
    assert running.log.read_text()[before:] == ""


def test_an_error_repeats_little_of_a_long_address(settings: Settings) -> None:
    with serving(settings) as service:
        path = "/%01%F0%9F%98%80" * (MAX_PATH_BYTES // 20)
        answer = service.client.get(path)
        assert answer.status_code == 404
        assert len(answer.content) < 4_000
        assert "\\x01" in answer.json()["instance"]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a proxy said so", "a proxy said so"),
    ],
)
def test_who_has_an_ipv6_network_counts_as_one(address: str, counted: str) -> None:
    assert counted_as(address) == counted


def test_the_next_answer_is_made_when_the_one_before_is_read(settings: Settings) -> None:
    with serving(settings) as service, closing(deaf(service.port)) as connection:
        request = f"GET {large_file(service)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        connection.sendall(request * MAX_PIPELINED)
        whole = 0
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
    caplog.set_level(logging.WARNING, "usage_pipeline.api.connections.counting")
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


def test_who_was_refused_and_still_sends_keeps_nobody_out(settings: Settings) -> None:
    """What is read of a refused body, so that its sender sees the answer, is no work: anybody can send one, without a token."""
    few = settings.model_copy(update={"max_connections": 3})
    with serving(few) as service, ExitStack() as stack:
        refused = [stack.enter_context(closing(service.raw("Content-Length: 1000"))) for _ in range(3)]
        for connection in refused:
            assert connection.recv(12) == b"HTTP/1.1 401"
        with closing(connected(service.port)) as one_more:
            one_more.sendall(HEAD + b"\r\n")
            assert one_more.recv(12) == b"HTTP/1.1 200"


def test_a_second_episode_of_too_many_connections_is_told_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    few = settings.model_copy(update={"max_connections": 4})
    caplog.set_level(logging.WARNING, "usage_pipeline.api.connections.counting")
    with serving(few) as service:
        for episode in (1, 2):
            with ExitStack() as stack:
                flood = [stack.enter_context(closing(connected(service.port))) for _ in range(12)]
                wait_until(lambda flood=flood: sum(map(is_closed, flood)) == 8, "all but four are closed", 60)
            wait_until(lambda: not ends_at(service.port), "they are gone", 60)
            assert caplog.text.count("4 connections in all (MAX_CONNECTIONS)") == episode

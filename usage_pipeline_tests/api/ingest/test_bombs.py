"""Small bodies that become large: what the service takes of memory meanwhile, and that others are answered."""

import json
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from usage_pipeline.api.memory import most_memory
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.api.api_process import ApiProcess, api_process
from usage_pipeline_tests.conftest import Databases
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import ARCHIVES_PATH, EVENTS_PATH, new_token

MEGABYTE = 2**20
GZIP = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
SENDERS = 3


@pytest.fixture(scope="module")
def attacked(
    servers: LocalServers, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ApiProcess, str, int]]:
    """A service, an ingest token of it, and the memory that it may take."""
    name = databases.take()
    url = servers.postgres.url(name)
    settings = load_settings(database_url=url, redis_url=servers.redis_url)
    with psycopg.connect(url, autocommit=True) as connection:
        token = new_token(connection)
    folder: Path = tmp_path_factory.mktemp("api")
    with api_process(settings, folder) as process:
        yield process, token, most_memory(settings)
    databases.drop(name)


def packed(*parts: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def with_member(name: str, begin: bytes, piece: bytes, end: bytes, megabytes: int = 30) -> bytes:
    """One event of so many megabytes: nearly all of it is this member."""
    head, tail = json.dumps([event(**{name: "here"})]).encode().split(b'"here"')
    return packed(head + begin, *[piece * (MEGABYTE // len(piece))] * megabytes, end + tail)


def plain_events() -> bytes:
    """What is legal: a thousand events of 20 KB."""
    return packed(b"[", b",".join(json.dumps(event(prompt="ü" * 10_000)).encode() for _ in range(900)), b"]")


BODIES: dict[str, Callable[[], bytes]] = {
    "a wide character": lambda: with_member("prompt", '"😀'.encode(), b"a", b'"', 150),
    "a wide id": lambda: with_member("team", '"😀'.encode(), b"a", b'"', 150),
    "lists": lambda: with_member("extra", b'{"a":[', b"[],", b"1]}"),
    "lists beside half a pair": lambda: with_member("extra", b'{"b":"\\ud800","a":[', b"[],", b"1]}"),
    "objects": lambda: with_member("extra", b'{"a":[', b'{"a":1},', b"1]}"),
    "numbers": lambda: with_member("extra", b'{"a":[', b"1,", b"1]}"),
    "legal events": plain_events,
}


def test_an_archive_as_large_as_may_be_takes_its_size_and_that_of_its_row(
    attacked: tuple[ApiProcess, str, int],
) -> None:
    """It was four times there: as a part of the document, as bytes, in brackets, and in lines for PostgreSQL."""
    running, token, _ = attacked
    process = psutil.Process(running.process.pid)
    head = json.dumps({"event_id": str(uuid.uuid4()), "user_id": "u", "service": "s"}).encode()[:-1]
    characters = 15_700_000
    body = packed(b"[", head, b',"prompt_full":"', b"\\ud83d\\ude00" * characters, b'"}]')
    assert len(body) < MEGABYTE
    rest, peak = process.memory_info().rss, 0
    headers = GZIP | {"Authorization": f"Bearer {token}"}
    answers: list[httpx.Response] = []
    with httpx.Client(trust_env=False, timeout=300, headers=headers) as client:
        sender = threading.Thread(
            target=lambda: answers.append(client.post(f"{running.url}{ARCHIVES_PATH}", content=body))
        )
        sender.start()
        while sender.is_alive():
            peak = max(peak, process.memory_info().rss)
            sender.join(0.01)
    [answer] = answers
    assert answer.status_code == 503 or "event_id: expected the id of a stored event" in answer.text
    assert peak - rest < (12 + 4) * characters + 150 * MEGABYTE


@pytest.mark.parametrize("kind", BODIES)
def test_a_few_such_bodies_at_once_stay_within_the_memory_of_the_limits(
    attacked: tuple[ApiProcess, str, int], kind: str
) -> None:
    running, token, most = attacked
    body = BODIES[kind]()
    assert len(body) < MEGABYTE
    statuses: list[int] = []

    def send() -> None:
        with closing(httpx.Client(trust_env=False, timeout=300, headers=GZIP)) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            statuses.append(client.post(f"{running.url}{EVENTS_PATH}", content=body).status_code)

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    peak = 0
    while any(sender.is_alive() for sender in senders):
        peak = max(peak, psutil.Process(running.process.pid).memory_info().rss)
        senders[-1].join(0.01)
    assert set(statuses) <= {200, 413, 503}, statuses
    assert peak < most, f"{peak >> 20} MB of {most >> 20} MB"
    assert running.answers()

"""Small bodies that become large: what the service takes of memory meanwhile, and that others are answered."""

import json
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest

from usage_pipeline.api.memory import most_memory
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.api.api_process import ApiProcess, api_process
from usage_pipeline_tests.conftest import Databases
from usage_pipeline_tests.events.otlp.bombs import JSON_BOMBS, PROTOBUF_BOMBS
from usage_pipeline_tests.events.otlp.spans import PROTOBUF, TRACES_PATH
from usage_pipeline_tests.rigs.events import NOW, event
from usage_pipeline_tests.rigs.service import ARCHIVES_PATH, CLOUDEVENTS_PATH, EVENTS_PATH, LITELLM_PATH, new_token

MEGABYTE = 2**20
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


def archive(begin: bytes, piece: bytes, end: bytes, megabytes: int) -> bytes:
    """One archive of so many megabytes, whose event is not stored."""
    head, tail = (
        json.dumps([{"event_id": str(uuid4()), "user_id": "u", "service": "s", "prompt_full": "here"}])
        .encode()
        .split(b'"here"')
    )
    return packed(head + begin, *[piece * (MEGABYTE // len(piece))] * megabytes, end + tail)


def large_archives() -> bytes:
    """What is legal: archives at their limits, as many as a document may have."""
    half = b"a" * 15_900_000
    items = [
        b'{"event_id":"%b","user_id":"u","service":"s","prompt_full":"%b","response_full":"%b"}'
        % (str(uuid4()).encode(), half, half)
        for _ in range(5)
    ]
    return packed(b"[", b",".join(items), b"]")


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
ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a wide character": lambda: archive('"😀'.encode(), b"a", b'"', 185),
    "half a pair": lambda: archive(b'"\\ud800', b"a", b'"', 185),
    "half a pair below the limit": lambda: archive(b'"\\ud800', b"a", b'"', 60),
    "no numbers": lambda: archive(b"[", b"NaN,", b"1]", 185),
    "lists": lambda: archive(b"[", b"[],", b"1]", 185),
    "legal archives": large_archives,
}


def longer(members: dict[str, object], begin: bytes, piece: bytes, end: bytes) -> bytes:
    """An object with one more member, of 23 MB; `begin` has its name."""
    return packed(json.dumps(members).encode()[:-1], begin, *[piece * (MEGABYTE // len(piece))] * 23, end)


RECORD = {"id": "x", "startTime": NOW.timestamp()}
ENVELOPE = {"specversion": "1.0", "id": "x", "source": "/a", "type": "t", "time": NOW.isoformat()}
LITELLM: dict[str, Callable[[], bytes]] = {
    "messages": lambda: longer(RECORD, b',"messages":[', b"[],", b"1]}"),
    "tags": lambda: longer(RECORD, b',"request_tags":[', b'"a",', b"1]}"),
    "a usage object": lambda: packed(
        json.dumps(RECORD).encode()[:-1], b',"metadata":{"usage_object":[', *[b"[]," * 300_000] * 23, b"1]}}"
    ),
    "a key of the metadata": lambda: longer(RECORD, b',"metadata":{"user_api_key_alias":"', b"a", b'"}}'),
    "half pairs": lambda: longer(RECORD, b',"messages":"', b"\\ud800", b'"}'),
    "no numbers": lambda: longer(RECORD, b',"messages":[', b"NaN,", b"1]}"),
    "many of them": lambda: packed(b"[", *[b"{}," * 300_000] * 100, b"{}]"),
    "many lines": lambda: packed(*[b"{}\n" * 300_000] * 100),
    "deep": lambda: packed(*[b"[" * MEGABYTE] * 100),
    "spaces": lambda: packed(*[b" " * MEGABYTE] * 190, b"{}"),
    "legal": lambda: packed(
        b"[",
        b",".join(json.dumps(RECORD | {"id": str(one), "messages": "m" * 200_000}).encode() for one in range(900)),
        b"]",
    ),
}
CLOUDEVENTS: dict[str, Callable[[], bytes]] = {
    "data": lambda: packed(
        json.dumps(ENVELOPE).encode()[:-1], b',"data":{"extra":{"a":[', *[b"[]," * 300_000] * 23, b"1]}}}"
    ),
    "members": lambda: longer(ENVELOPE, b',"data":{"a":1', b',"a":1', b"}}"),
    "base64": lambda: longer(ENVELOPE, b',"data_base64":"', b"AAAA", b'"}'),
    "extensions": lambda: packed(json.dumps(ENVELOPE).encode()[:-1], *[b',"a":[]' * 150_000] * 23, b"}"),
    "an id": lambda: packed(b'{"id":"', *[b"a" * MEGABYTE] * 23, b'"}'),
}
TRACES = ("spans", "attributes of many spans", "texts", "resources")
JSON_TRACES = ("spans", "attributes", "a text", "lists")


def traces(
    kinds: Sequence[str], bombs: Mapping[str, Callable[[int], Iterable[bytes]]]
) -> dict[str, Callable[[], bytes]]:
    """These requests, each of so many megabytes."""
    return {kind: lambda kind=kind: packed(*bombs[kind](60 * MEGABYTE)) for kind in kinds}  # type: ignore[misc]


ALL: dict[tuple[str, str], dict[str, Callable[[], bytes]]] = {
    (EVENTS_PATH, "application/json"): BODIES,
    (ARCHIVES_PATH, "application/json"): ARCHIVES,
    (LITELLM_PATH, "application/json"): LITELLM,
    (CLOUDEVENTS_PATH, "application/cloudevents+json"): CLOUDEVENTS,
    (TRACES_PATH, PROTOBUF): traces(TRACES, PROTOBUF_BOMBS),
    (TRACES_PATH, "application/json"): traces(JSON_TRACES, JSON_BOMBS),
}


@pytest.mark.parametrize(
    ("path", "media_type", "kind"), [(*place, kind) for place, bodies in ALL.items() for kind in bodies]
)
def test_a_few_such_bodies_at_once_stay_within_the_memory_of_the_limits(
    attacked: tuple[ApiProcess, str, int], path: str, media_type: str, kind: str
) -> None:
    running, token, most = attacked
    body = ALL[path, media_type][kind]()
    assert len(body) < MEGABYTE
    headers = {"Content-Type": media_type, "Content-Encoding": "gzip"}
    statuses: list[int] = []

    def send() -> None:
        with closing(httpx.Client(trust_env=False, timeout=300, headers=headers)) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            statuses.append(client.post(f"{running.url}{path}", content=body).status_code)

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    peak = 0
    while any(sender.is_alive() for sender in senders):
        peak = max(peak, psutil.Process(running.process.pid).memory_info().rss)
        senders[-1].join(0.01)
    assert set(statuses) <= {200, 400, 413, 503}, statuses
    assert peak < most, f"{peak >> 20} MB of {most >> 20} MB"
    assert running.answers()

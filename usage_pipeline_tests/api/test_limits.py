"""Every limit of a request: just under passes, just over is refused with a clear problem; nothing is half stored."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator

import httpx
import psutil
import psycopg
import pytest

from usage_pipeline.api.ingest.bodies import decompressed
from usage_pipeline.api.problems import Problem
from usage_pipeline.settings import MAX_EXPANSION, Settings, load_settings
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import (
    EVENTS_PATH,
    Service,
    answer_of,
    expect_problem,
    new_token,
    serving,
)
from usage_pipeline_tests.rigs.waiting import wait_until

MOST_BYTES = 4_096
MOST_ITEMS = 3
JSON = {"Content-Type": "application/json"}
GZIP = JSON | {"Content-Encoding": "gzip"}


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return load_settings(
        database_url=database_url,
        redis_url=redis_url,
        max_gzip_size=MOST_BYTES,
        max_bulk_size=MOST_ITEMS,
        body_timeout_seconds=1.0,
    )


def padded(body: bytes, size: int) -> bytes:
    return body + b" " * (size - len(body))


def noise(size: int) -> bytes:
    """A gzip file of exactly this size whose content is a JSON array and spaces that do not compress well."""
    for tail in range(size, 0, -1):
        spaces = bytes(b" \t\n\r"[byte & 3] for byte in os.urandom(4 * tail))
        if len(made := gzip.compress(b"[]" + spaces, 9)) == size:
            return made
        if len(made) < size:
            # The rest is the comment of its head, which no decompressor looks at.
            return made[:3] + b"\x10" + made[4:10] + b"c" * (size - len(made) - 1) + b"\0" + made[10:]
    raise AssertionError


def pieces(body: bytes) -> Iterator[bytes]:
    """As a client that sends chunks does, which announces no length."""
    for first in range(0, len(body), 1_000):
        yield body[first : first + 1_000]


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_as_many_items_as_are_allowed_and_no_more(ingest_client: httpx.Client, is_wrapped: bool) -> None:
    for count, status in ((MOST_ITEMS, 200), (MOST_ITEMS + 1, 413)):
        events = [event() for _ in range(count)]
        response = ingest_client.post(EVENTS_PATH, json={"events": events} if is_wrapped else events)
        assert response.status_code == status
    assert f"expected at most {MOST_ITEMS} items" in expect_problem(response, 413, "too-many-items")


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("is_gzip", [False, True])
def test_as_many_bytes_as_are_allowed_and_no_more(ingest_client: httpx.Client, is_chunked: bool, is_gzip: bool) -> None:
    for size, status in ((MOST_BYTES, 200), (MOST_BYTES + 1, 413)):
        body = noise(size) if is_gzip else padded(b"[]", size)
        assert len(body) == size
        response = ingest_client.post(
            EVENTS_PATH, content=pieces(body) if is_chunked else body, headers=GZIP if is_gzip else JSON
        )
        assert response.status_code == status, response.text
    assert f"expected at most {MOST_BYTES} bytes as sent" in expect_problem(response, 413, "body-too-large")


def test_a_large_body_is_refused_before_it_is_sent(service: Service, token: str) -> None:
    with service.raw(f"Content-Length: {10**12}\r\nExpect: 100-continue", token=token) as connection:
        connection.settimeout(10)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_large_body_that_is_sent_all_the_same_gets_its_answer(service: Service, token: str) -> None:
    # Closing the connection on unread bytes would reset it, and the answer would be lost on the way.
    with service.raw("Content-Length: 3000000", token=token) as connection:
        for _ in range(30):
            connection.sendall(bytes(100_000))
        status, _, document = answer_of(connection)
    assert (status, document["type"]) == (413, "urn:usage-pipeline:body-too-large")


def test_as_many_bytes_after_decompression_as_are_allowed_and_no_more(ingest_client: httpx.Client) -> None:
    most = MOST_BYTES * MAX_EXPANSION
    for size, status in ((most, 200), (most + 1, 413)):
        response = ingest_client.post(EVENTS_PATH, content=gzip.compress(padded(b"[]", size)), headers=GZIP)
        assert response.status_code == status
    assert f"expected at most {most} bytes after decompression" in expect_problem(response, 413, "body-too-large")


WITH_PEAK = """
import sys, tracemalloc
from usage_pipeline.api.ingest.bodies import decompressed
from usage_pipeline.api.problems import Problem
bomb = open(sys.argv[1], "rb").read()
tracemalloc.start()
try:
    decompressed(bomb, most=int(sys.argv[2]))
except Problem as problem:
    print(problem.status, tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_a_bomb(tmp_path: object) -> None:
    most, peaks = 8 * 2**20, []
    for megabytes in (16, 256):
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join([*(packer.compress(bytes(2**20)) for _ in range(megabytes)), packer.flush()])
        path = f"{tmp_path}/bomb-{megabytes}.gz"
        with open(path, "wb") as file:
            file.write(bomb)
        done = subprocess.run(
            [sys.executable, "-c", WITH_PEAK, path, str(most)], capture_output=True, text=True, check=True
        )
        status, peak = done.stdout.split()
        assert status == "413"
        peaks.append(int(peak))
    assert max(peaks) < 1.5 * most + 4 * 2**20
    assert peaks[1] < peaks[0] + 2**20


def test_a_document_of_tiny_items_makes_no_objects_of_them(service: Service, ingest_client: httpx.Client) -> None:
    """200 MB of `1,1,1…` would be 100 million objects; only as many as are allowed are made."""
    import tracemalloc

    from usage_pipeline.events.ingest.documents import WINDOW_BYTES, TooManyItems, items_of

    for document in (b"[" + b"1," * 2_000_000 + b"1]", b'{"events":[' + b"1," * 2_000_000 + b"1]}"):
        tracemalloc.start()
        with pytest.raises(TooManyItems):
            items_of(document, "events", most=1_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Copies of one window; the objects would take 140 MB.
        assert peak < 5 * WINDOW_BYTES


def test_members_of_a_gzip_file_are_one_body(ingest_client: httpx.Client) -> None:
    body = json.dumps([event()]).encode()
    response = ingest_client.post(
        EVENTS_PATH, content=gzip.compress(body[:50]) + gzip.compress(body[50:]), headers=GZIP
    )
    assert response.json()["inserted"] == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole + b"garbage",
        lambda whole: whole + b"\x1f",
        lambda whole: whole[:-8] + bytes(8),
        lambda whole: b"",
        lambda whole: b"[]",
        lambda whole: zlib.compress(b"[]"),
        lambda whole: gzip.compress(b"") * 100 + b"\0",
    ],
    ids=["a byte short", "half", "garbage", "half a head", "checksum", "nothing", "json", "zlib", "zero"],
)
def test_damaged_gzip_is_refused_and_stores_nothing(
    ingest_client: httpx.Client, postgres: psycopg.Connection, damage: object
) -> None:
    whole = gzip.compress(json.dumps([event()]).encode())
    response = ingest_client.post(EVENTS_PATH, content=damage(whole), headers=GZIP)  # type: ignore[operator]
    assert "expected gzip, as Content-Encoding says" in expect_problem(response, 400, "invalid-gzip")
    assert postgres.execute("select count(*) from ops.ingest_batches").fetchone() == (0,)


def test_a_file_of_very_many_members_is_refused_soon() -> None:
    started = time.process_time()
    with pytest.raises(Problem, match="members"):
        decompressed(gzip.compress(b"") * 500_000, most=10**6)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_decompression_gives_what_was_compressed(size: int) -> None:
    content = os.urandom(size // 2) + bytes(size - size // 2)
    assert decompressed(gzip.compress(content), most=size) == content


def test_a_slow_body_is_408(service: Service, token: str) -> None:
    with service.raw("Content-Length: 100", token=token) as connection:
        connection.sendall(b"[")
        status, headers, document = answer_of(connection)
    assert (status, headers["content-type"], headers["connection"]) == (408, "application/problem+json", "close")
    assert document["detail"] == "expected the whole body within 1 s, came 1 bytes of it"


def test_a_slow_client_holds_up_no_other(service: Service, ingest_client: httpx.Client, token: str) -> None:
    with service.raw("Content-Length: 100", token=token) as connection:
        connection.sendall(b"[")
        assert ingest_client.post(EVENTS_PATH, json=[event()]).status_code == 200


@pytest.mark.parametrize("head", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_client_that_goes_away_in_the_middle_leaves_nothing(
    service: Service, ingest_client: httpx.Client, token: str, postgres: psycopg.Connection, head: str
) -> None:
    body = json.dumps([event()]).encode()
    connection = service.raw(head, token=token)
    connection.sendall(body if "Length" in head else b"%x\r\n%b\r\n" % (len(body), body))
    connection.close()
    assert ingest_client.post(EVENTS_PATH, json=[]).json()["inserted"] == 0
    assert postgres.execute("select count(*) from analytics.usage_events").fetchone() == (0,)
    assert postgres.execute("select count(*) from ops.ingest_batches").fetchone() == (1,)


def test_a_client_that_goes_away_while_it_is_stored_may_send_the_same_again(
    service: Service, ingest_client: httpx.Client, token: str, postgres: psycopg.Connection, database_url: str
) -> None:
    body = json.dumps([event(), event()]).encode()
    with psycopg.connect(database_url) as blocker:
        blocker.execute("lock table analytics.usage_event_ids")
        connection = service.raw(f"Content-Length: {len(body)}", token=token)
        connection.sendall(body)
        waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        wait_until(lambda: postgres.execute(waiting).fetchone(), "the request waits for the lock", 20)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()  # a reset
    wait_until(lambda: postgres.execute("select 1 from ops.ingest_batches").fetchone(), "the batch is stored", 20)
    answer = ingest_client.post(EVENTS_PATH, content=body, headers=JSON).json()
    assert (answer["inserted"], answer["duplicates"]) == (0, 2)
    assert postgres.execute("select count(*), sum(received) from ops.ingest_batches").fetchone() == (2, 4)


def test_bombs_side_by_side_leave_the_service_at_work_and_small(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    settings = load_settings(database_url=database_url, redis_url=redis_url, max_gzip_size=2**20, db_pool_size=2)
    token = new_token(postgres)
    bomb = gzip.compress(bytes(400 * 2**20), 6)
    assert len(bomb) < 2**20
    with serving(settings) as service:
        client = service.with_token(token)
        before = psutil.Process().memory_info().rss
        statuses: list[int] = []
        peak = [0]

        def send() -> None:
            statuses.append(client.post(EVENTS_PATH, content=bomb, headers=GZIP).status_code)

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak[0] = max(peak[0], psutil.Process().memory_info().rss)
            threads[-1].join(0.005)
        assert len(statuses) == 8
        # One token has half of the places, so some of them may be told to come again.
        assert set(statuses) in ({413}, {413, 503})
        # Two at a time, 20 MB each, a third more while it grows; never the 400.
        assert peak[0] - before < 150 * 2**20
        assert client.post(EVENTS_PATH, json=[event()]).status_code == 200

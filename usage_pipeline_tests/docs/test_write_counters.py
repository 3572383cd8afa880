"""docs/write-counters.md: its clients, taken from the page, count once what stalls, lost answers and late requests disturb."""

import os
import signal
from collections.abc import Iterator

import pytest

from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.docs.counter_writers import (
    CLOSE_SECONDS,
    WRITERS,
    NotToBeHad,
    Writer,
    start,
    stored,
    trouble,
)
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.faulty_link import FAULTS, FaultyLink
from usage_pipeline_tests.torture.servers import NO_PERSISTENCE, RedisServer


@pytest.fixture(scope="module", params=WRITERS)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    try:
        return WRITERS[request.param](tmp_path_factory.mktemp(request.param))
    except NotToBeHad as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Without a password: redis-cli would wait for the answer to that, and lose no answer to a record."""
    running = RedisServer(tmp_path_factory.mktemp("redis"), NO_PERSISTENCE)
    running.start()
    yield running
    running.stop()


def test_the_example_of_the_page_is_stored(writer: Writer, redis_url: str, settings: Settings) -> None:
    assert start(writer, redis_url, writer.example).wait(60) == 0
    found = stored(settings)
    assert found["merchant", "merchant-1", "metric_value"] == 5
    requests = ("total_requests", "successful_requests", "failed_requests")
    assert [found["api_key", "key-1", field] for field in requests] == [2, 1, 1]


def test_a_client_of_the_page_counts_once_what_a_faulty_link_loses_and_delays(
    writer: Writer, server: RedisServer, database_url: str
) -> None:
    settings = load_settings(database_url=database_url, redis_url=server.url)
    records, tasks = (60, 6) if writer.language == "Shell" else (1_000, 20)
    with server.client() as client, FaultyLink(server.port) as link:
        client.flushall()
        process = start(writer, link.url, writer.load, records, tasks, 4, CLOSE_SECONDS)
        try:
            # On a busy machine it takes its time to begin.
            wait_until(lambda: client.dbsize() > 0, "it writes")
            for number in range(len(FAULTS) - 1):
                trouble(link, number, 0.4)
            before = stored(settings)
            assert process.wait(60) == 0, "everything was kept and sent"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        link.end_connections()
        # When the server has closed the connections, it has done what came over them late.
        wait_until(lambda: len(client.client_list()) <= 1, "what was delayed is done")
        assert stored(settings) == writer.expected(records)
        assert before.total() > 0, "drains ran in between"
        if writer.has_odometer:
            odometers = [client.hget(key, "records") for key in client.scan_iter("usage_pipeline:recorded:*")]
            assert sum(int(one or 0) for one in odometers) == records

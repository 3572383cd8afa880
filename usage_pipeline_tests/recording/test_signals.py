"""Calls inside of calls: signal handlers and `on_failure` may record, and nothing is lost, doubled or waited for."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from usage_recorder.recorder import Recorder

from usage_pipeline.local.servers.ports import free_port
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.servers import RedisServer

# While Redis takes nothing, records are summed in memory: there most signals come in the middle of a call.
RECORDS_IN_A_HANDLER = """
import faulthandler, signal, sys
import redis
from usage_recorder import Recorder
server = redis.Redis.from_url(sys.argv[1])
recorder = Recorder.connect(sys.argv[1], timeout_seconds=5)
faulthandler.dump_traceback_later(100, exit=True)
in_main, in_handler = 0, []
def handler(*_):
    in_handler.append(recorder.record_api_key("key-1"))
    recorder.failures, recorder.kept, recorder.flush(0), recorder.check_quota("key-1"), recorder.record_api_key("")
    # One after the other, also where a call takes longer.
    signal.setitimer(signal.ITIMER_REAL, 0.001 * (len(in_handler) < wanted))
signal.signal(signal.SIGALRM, handler)
for is_away in (True, False):
    server.config_set("maxmemory", int(is_away))
    wanted = len(in_handler) + 1_000
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    while len(in_handler) < wanted:
        in_main += recorder.record_api_key("key-1")
        recorder.kept, recorder.failures, recorder.pending("key-1")
assert recorder.flush(30)
counted = int(server.hget("apikey:key-1:metrics", "total_requests"))
assert all(in_handler)
assert counted == in_main + len(in_handler), (counted, in_main, len(in_handler))
assert recorder.dropped["api_key"] == len(in_handler), "wrong arguments are counted in a handler too"
recorder.close()
"""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"), ("appendonly no",))
    running.start()
    yield running
    running.stop()


def test_a_signal_handler_that_records_loses_and_stops_nothing(server: RedisServer) -> None:
    subprocess.run([sys.executable, "-c", RECORDS_IN_A_HANDLER, server.url], check=True, timeout=120)


def test_an_on_failure_that_records_is_taken_in_after_the_call_and_ends(server: RedisServer) -> None:
    recorder = Recorder.connect(
        server.url, timeout_seconds=5, on_failure=lambda *_: recorder.record_merchant("shop-1", "failures")
    )
    assert not recorder.record_api_key("")
    with server.client() as client:
        wait_until(lambda: any(client.scan_iter("usage:shop-1:*:failures")), "the courier sent it")
    assert recorder.flush(30)
    recorder.close()
    without_room: Recorder = Recorder.connect(
        f"redis://127.0.0.1:{free_port()}/0", most_kept=0, on_failure=lambda *_: without_room.record_token("t", "h")
    )
    assert without_room.record_merchant("shop-1", "orders"), "it was sent, and had no answer"
    assert not without_room.record_merchant("shop-1", "orders")
    without_room.close(timeout_seconds=0)

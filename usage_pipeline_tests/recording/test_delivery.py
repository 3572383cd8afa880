"""How what waits is delivered: bounds, ages, threads, cancelled calls, forks, and the end of the process."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.commands import Moment, Record
from usage_recorder.delivery.outbox import OLDEST_REPEATED_MS, Outbox
from usage_recorder.delivery.sends import NothingSentError, Send
from usage_recorder.delivery.spool import Spool
from usage_recorder.failures import RecordFailures
from usage_recorder.recorder import Recorder

from usage_pipeline.local.servers.ports import free_port
from usage_pipeline_tests.recording.test_exactly_once import record, taken_from
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.faulty_link import FaultyLink
from usage_pipeline_tests.torture.servers import RedisServer


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"), ("appendonly no",))
    running.start()
    yield running
    running.stop()


def away(**options: int) -> tuple[Recorder, list[tuple[str, str]]]:
    """A recorder whose Redis is nowhere, after its first call."""
    failures: list[tuple[str, str]] = []
    recorder = Recorder.connect(
        f"redis://127.0.0.1:{free_port()}/0",
        on_failure=lambda what, reason: failures.append((what, reason)),
        **options,  # type: ignore[arg-type]
    )
    assert recorder.record_merchant("shop-1", "orders")
    return recorder, failures


def test_what_waits_is_summed_by_counter_and_bounded_in_number() -> None:
    recorder, failures = away(most_kept=3)
    for _ in range(50):
        assert recorder.record_merchant("shop-1", "orders")
        assert recorder.record_api_key("key-1")
    assert recorder.record_token("token-1", "host:80")
    assert not recorder.record_token("token-2", "host:80")
    assert recorder.record_token("token-1", "host:80"), "there is room in the sum"
    assert recorder.kept == 103
    assert failures == [("token", "no room")]
    assert recorder.dropped["token"] == 1
    recorder.close(timeout_seconds=0)
    wait_until(lambda: recorder.kept == 0, "the last try has ended")
    assert Counter(failures)["merchant", "unsent"] == 51


def test_events_that_wait_are_bounded_in_bytes() -> None:
    recorder, failures = away(most_kept_bytes=20_000)
    kept = [recorder.record_event("key-1", user_id="u", provider="s3", event_type="upload") for _ in range(20)]
    assert 5 < sum(one is not None for one in kept) < 20
    assert set(failures) == {("event", "no room")}
    recorder.close(timeout_seconds=0)


def test_the_one_who_is_told_of_a_failure_may_ask_the_recorder() -> None:
    asked: list[int] = []
    recorder = Recorder.connect(
        f"redis://127.0.0.1:{free_port()}/0", most_kept=0, on_failure=lambda what, reason: asked.append(recorder.kept)
    )
    assert recorder.record_merchant("shop-1", "orders"), "it was sent, and had no answer"
    assert not recorder.record_merchant("shop-1", "orders")
    assert asked == [1]
    recorder.close(timeout_seconds=0)


def test_an_on_failure_that_raises_reaches_no_request_and_stops_no_delivery(server: RedisServer) -> None:
    def fails(what: str, reason: str) -> None:
        raise RuntimeError("a library of metrics")

    recorder = Recorder.connect(server.url, timeout_seconds=5, on_failure=fails)
    with server.client() as client:
        client.set("apikey:refused:metrics", "no hash")
        assert not recorder.record_api_key("")
        client.config_set("maxmemory", 1)
        for name in ("first", "refused", "last"):
            assert recorder.record_api_key(name)
        client.config_set("maxmemory", 0)
        assert recorder.flush(30)
        assert [client.hget(f"apikey:{name}:metrics", "total_requests") for name in ("first", "last")] == [b"1", b"1"]
    recorder.close()
    assert recorder.failures == {("api_key", "wrong argument"): 1, ("api_key", "refused"): 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_an_error_ended_is_started_again(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder.connect(server.url, timeout_seconds=5)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        with monkeypatch.context() as patched:
            failed = threading.Event()

            def fails(*words: object) -> None:
                failed.set()
                raise RuntimeError("not foreseen")

            patched.setattr(Outbox, "portion", fails)
            assert recorder.record_merchant("shop-1", "orders")
            assert failed.wait(30)
        client.config_set("maxmemory", 0)
        assert recorder.flush(30)
        with monkeypatch.context() as patched:
            # An error that no thread survives.
            patched.setattr("usage_recorder.delivery.courier.deliver", lambda *words: sys.exit())
            client.config_set("maxmemory", 1)
            assert recorder.record_merchant("shop-1", "orders")
            wait_until(lambda: (thread := recorder._courier._thread) is None or not thread.is_alive(), "it has ended")
        client.config_set("maxmemory", 0)
        assert recorder.flush(30)
        [counter] = client.scan_iter("usage:shop-1:*")
        assert client.get(counter) == b"2"
    recorder.close()


async def test_a_task_that_an_error_ended_is_started_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = AsyncRecorder.connect(server.url, timeout_seconds=5)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        with monkeypatch.context() as patched:
            failed = asyncio.Event()

            def fails(*words: object) -> None:
                failed.set()
                raise RuntimeError("not foreseen")

            patched.setattr(Outbox, "portion", fails)
            assert await recorder.record_merchant("shop-1", "orders")
            await asyncio.wait_for(failed.wait(), 30)
        client.config_set("maxmemory", 0)
        assert await recorder.flush(30)
        [counter] = client.scan_iter("usage:shop-1:*")
        assert client.get(counter) == b"1"
    await recorder.close()


def test_counts_that_wait_are_not_summed_over_what_redis_can_add(server: RedisServer) -> None:
    recorder = Recorder.connect(server.url, timeout_seconds=20)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        for requests in (1, 2**62, 2**62):
            assert recorder.record_api_key("key-1", requests=requests)
        assert recorder.kept == 3
        client.config_set("maxmemory", 0)
        assert recorder.flush(30)
    recorder.close()
    assert recorder.failures == {("api_key", "refused"): 1}, "only the last is too much"


AGED = Record("merchant", "usage:m:2026-03-01:orders", Moment(1_000_000_000, date(2026, 3, 1)), {"metric_value": 1})


class Clocks:
    """The clock on the wall, which may leap, and the time that has passed."""

    def __init__(self, spool: Spool | None = None) -> None:
        self.wall_seconds, self.passed_seconds = 1_000_000.0, 50.0
        self.failures = RecordFailures()
        self.outbox = self.made(spool)

    def made(self, spool: Spool | None = None) -> Outbox:
        return Outbox(
            self.failures,
            is_cluster=False,
            clock=lambda: self.wall_seconds,
            elapsed=lambda: self.passed_seconds,
            spool=spool,
        )


def test_a_send_that_redis_may_have_forgotten_is_lost_and_told_instead_of_repeated() -> None:
    clocks = Clocks()
    outbox = clocks.outbox
    send = outbox.begin(AGED)
    assert isinstance(send, Send)
    assert outbox.take(send, [redis.TimeoutError()])
    clocks.passed_seconds += OLDEST_REPEATED_MS / 1000 - 1
    assert outbox.end_portion(outbox.portion(10), None) is False
    clocks.passed_seconds += 2
    assert outbox.portion(10) == []
    assert clocks.failures.by_reason == {("merchant", "too old"): 1}
    assert not outbox.has_left()


@pytest.mark.parametrize("days", [-4_000, 30, 4_000])
def test_a_leap_of_the_clock_on_the_wall_makes_no_send_too_old(days: int) -> None:
    clocks = Clocks()
    send = clocks.outbox.begin(AGED)
    assert isinstance(send, Send)
    assert clocks.outbox.take(send, [redis.TimeoutError()])
    clocks.wall_seconds += days * 86_400
    assert clocks.outbox.portion(10) == [send]
    assert clocks.failures.by_reason == {}


@pytest.mark.parametrize(
    ("days", "is_sent"), [(-30, True), (5.9, True), (6.1, False)], ids=["a clock that went back", "young", "old"]
)
def test_the_age_of_what_an_earlier_process_left_is_told_by_the_wall(
    tmp_path: Path, days: float, is_sent: bool
) -> None:
    spool = Spool(tmp_path / "spool", is_cluster=False)
    clocks = Clocks(spool)
    send = clocks.outbox.begin(AGED)
    assert isinstance(send, Send)
    assert clocks.outbox.take(send, [redis.TimeoutError()])
    spool.close()
    clocks.wall_seconds += days * 86_400
    following = clocks.made(Spool(tmp_path / "spool", is_cluster=False))
    assert [one.name for one in following.portion(10)] == [send.name] * is_sent
    assert clocks.failures.by_reason == ({} if is_sent else {("merchant", "too old"): 1})


@pytest.mark.parametrize(
    "answer",
    [
        NothingSentError("Connection refused"),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
    ],
)
def test_what_redis_never_got_or_did_not_do_is_sent_whatever_its_age(tmp_path: Path, answer: Exception) -> None:
    spool = Spool(tmp_path / "spool", is_cluster=False)
    clocks = Clocks(spool)
    send = clocks.outbox.begin(AGED)
    assert isinstance(send, Send)
    assert clocks.outbox.take(send, [answer])
    for _ in range(30):
        clocks.wall_seconds += 86_400
        clocks.passed_seconds += 86_400
        assert clocks.outbox.portion(10) == [send]
        assert clocks.outbox.end_portion([send], [[answer]]) is False
    spool.close()
    following = clocks.made(Spool(tmp_path / "spool", is_cluster=False))
    assert [one.name for one in following.portion(10)] == [send.name], "the next process knows that too"
    assert clocks.failures.by_reason == {}


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{port}/0", "unix:///no/such/socket", "redis://no-such-host.invalid/0"]
)
@pytest.mark.parametrize("retries", [0, 2])
async def test_a_connection_that_was_never_made_leaves_no_doubt(url: str, retries: int) -> None:
    """A client that repeats requests by itself leaves one: its last try says nothing of the others."""
    url = url.format(port=free_port())
    one = Recorder(redis.Redis.from_url(url, retry=Retry(NoBackoff(), retries)))
    other = AsyncRecorder(redis.asyncio.Redis.from_url(url, retry=AsyncRetry(NoBackoff(), retries)))
    for recorder, recorded in (
        (one, one.record_merchant("shop-1", "orders")),
        (other, await other.record_merchant("shop-1", "orders")),
    ):
        assert recorded
        wait_until(lambda: bool(recorder._outbox._doubtful), "it waits for its next try")  # noqa: B023
        assert [send.in_doubt_since is None for send in recorder._outbox._doubtful] == [not retries]
    one.close(timeout_seconds=0)
    await other.close(timeout_seconds=0)


def test_an_error_that_nobody_documents_is_not_raised_into_the_request(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder.connect(server.url, timeout_seconds=5)
    with monkeypatch.context() as patched:
        patched.setattr(redis.Redis, "execute_command", lambda *words: [][0])
        assert recorder.record_merchant("shop-1", "orders") is True
    assert recorder.flush(30)
    recorder.close()
    with server.client() as client:
        [counter] = client.scan_iter("usage:shop-1:*")
        assert client.get(counter) == b"1"


def test_lanes_are_as_many_as_calls_at_once() -> None:
    outbox = Outbox(RecordFailures(), is_cluster=False)
    one = Record("merchant", "usage:m:2026-03-01:orders", Moment(0, date(2026, 3, 1)), {"metric_value": 1})
    for number in range(1, 100):
        send = outbox.begin(one)
        assert isinstance(send, Send)
        assert (send.lane, send.number) == (0, number)
        assert outbox.take(send, [[]])
    first, second = outbox.begin(one), outbox.begin(one)
    assert isinstance(first, Send)
    assert isinstance(second, Send)
    assert {first.lane, second.lane} == {0, 1}


def test_records_of_many_threads_are_counted_once_while_answers_are_lost(server: RedisServer) -> None:
    recorded: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()
    with FaultyLink(server.port) as link:
        recorder = Recorder.connect(link.url, timeout_seconds=0.05)

        def work(number: int) -> None:
            for turn in range(60):
                if number == 0 and turn % 20 == 10:
                    link.fault = "cut after the request"
                elif number == 0:
                    link.fault = "none"
                outcome, counts = record(recorder, ("api_key", "token", "event")[turn % 3], f"n{number % 3}", 1)
                assert outcome
                with lock:
                    recorded.update(counts)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        link.fault = "none"
        assert recorder.flush(30)
        recorder.close()
    with server.client() as client:
        assert taken_from(client) == recorded
    assert recorder.failures == {}


async def test_a_cancelled_call_is_counted_once(server: RedisServer) -> None:
    """Whether it was cancelled before its request, before its answer, or after."""
    times = 60
    with FaultyLink(server.port) as link, server.client() as client:
        recorder = AsyncRecorder.connect(link.url, timeout_seconds=0.25)
        assert await recorder.record_merchant("shop-1", "orders")
        cancelled = 0
        for number in range(times):
            link.fault = ("lose answers", "delay requests", "none")[number % 3]
            call = asyncio.ensure_future(recorder.record_merchant("shop-1", "orders"))
            await asyncio.sleep(0.0005 * (number % 7))
            cancelled += call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            link.fault = "none"
            assert await recorder.flush(30)
        link.end_connections()
        await recorder.close()
        wait_until(lambda: len(client.client_list()) == 1, "what was delayed is done")
        [counter] = client.scan_iter("usage:shop-1:*")
        assert int(client.get(counter)) == times + 1
    assert cancelled > times / 2
    assert recorder.failures == {}


async def test_a_task_that_is_cancelled_with_its_loop_leaves_its_records_to_the_exit(server: RedisServer) -> None:
    code = f"""
import asyncio
from usage_recorder import AsyncRecorder
recorder = AsyncRecorder.connect("{server.url}", timeout_seconds=0.1)
async def main():
    import redis.asyncio
    client = redis.asyncio.Redis.from_url("{server.url}")
    await client.config_set("maxmemory", 1)
    for _ in range(5):
        assert await recorder.record_merchant("shop-1", "orders")
    await client.config_set("maxmemory", 0)
    await client.aclose()
asyncio.run(main())
del recorder
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    with server.client() as client:
        [counter] = client.scan_iter("usage:shop-1:*")
        assert client.get(counter) == b"5"


@pytest.mark.parametrize("is_away", [False, True])
def test_the_end_of_the_process_sends_what_waits_or_says_what_is_lost(server: RedisServer, is_away: bool) -> None:
    code = f"""
import redis
from usage_recorder import Recorder
recorder = Recorder.connect("{server.url}", timeout_seconds=0.5)
client = redis.Redis.from_url("{server.url}")
client.config_set("maxmemory", 1)
for _ in range(5):
    assert recorder.record_merchant("shop-1", "orders")
del recorder
if not {is_away}:
    client.config_set("maxmemory", 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("merchant: unsent" in done.stderr) is is_away
    with server.client() as client:
        counters = [client.get(key) for key in client.scan_iter("usage:shop-1:*")]
        assert counters == ([] if is_away else [b"5"])


# Handlers run from the last to the first that was registered: this one comes after that of the recorder.
RECORDS_AFTER_THE_EXIT = """
import atexit, sys
def last_words():
    for _ in range(3):
        recorder.record_merchant("shop-1", "orders")
    if is_async:
        asyncio.run(record_async())
atexit.register(last_words)
import asyncio, redis
from usage_recorder import AsyncRecorder, Recorder
url, was_busy, is_away, is_async = sys.argv[1], *(word == "True" for word in sys.argv[2:])
async def record_async():
    for _ in range(3):
        await asynchronous.record_merchant("shop-1", "orders")
recorder = Recorder.connect(url, timeout_seconds=0.5)
asynchronous = AsyncRecorder.connect(url, timeout_seconds=0.5)
client = redis.Redis.from_url(url)
client.config_set("maxmemory", int(was_busy))
recorder.record_merchant("shop-1", "orders")
if not is_away:
    client.config_set("maxmemory", 0)
elif not was_busy:
    atexit.register(client.config_set, "maxmemory", 1)
"""


@pytest.mark.parametrize("was_busy", [False, True])
@pytest.mark.parametrize("is_away", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_recorded_after_the_last_flush_is_sent_or_told(
    server: RedisServer, *, was_busy: bool, is_away: bool, is_async: bool
) -> None:
    command = [sys.executable, "-c", RECORDS_AFTER_THE_EXIT, server.url, str(was_busy), str(is_away), str(is_async)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = re.findall(r"merchant: unsent .*; (\d+) so far", done.stderr)
    with server.client() as client:
        counted = sum(int(client.get(key) or 0) for key in client.scan_iter("usage:shop-1:*"))
    recorded = 4 + 3 * is_async
    if is_away:
        assert told, done.stderr
        assert counted == (0 if was_busy else 1)
    else:
        assert (counted, told) == (recorded, []), done.stderr


# In a file, since a spawned child imports it.
RECORDS_IN_A_CHILD = """
import multiprocessing, sys
import redis
from usage_recorder import Recorder
def work(url, is_away):
    recorder, server = Recorder.connect(url, timeout_seconds=0.5), redis.Redis.from_url(url)
    server.config_set("maxmemory", 1)
    assert recorder.record_merchant("shop-1", "orders")
    server.config_set("maxmemory", int(is_away))
if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[2]).Process(target=work, args=(sys.argv[1], sys.argv[3] == "True"))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("is_away", [False, True])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_sends_what_waits_or_says_what_is_lost(
    server: RedisServer, tmp_path: Path, method: str, *, is_away: bool
) -> None:
    (tmp_path / "program.py").write_text(RECORDS_IN_A_CHILD)
    command = [sys.executable, str(tmp_path / "program.py"), server.url, method, str(is_away)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("merchant: unsent" in done.stderr) is is_away, done.stderr
    with server.client() as client:
        assert [client.get(key) for key in client.scan_iter("usage:shop-1:*")] == ([] if is_away else [b"1"])


def test_a_forked_child_has_its_own_numbers_and_none_of_what_its_parent_kept(server: RedisServer) -> None:
    code = f"""
import os, redis, sys
from usage_recorder import Recorder
recorder = Recorder.connect("{server.url}", timeout_seconds=5)
client = redis.Redis.from_url("{server.url}")
assert recorder.record_merchant("shop-1", "orders")
client.config_set("maxmemory", 1)
for _ in range(5):
    assert recorder.record_merchant("shop-1", "orders")
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        assert recorder.kept == 0
        client.config_set("maxmemory", 0)
        for _ in range(7):
            assert recorder.record_merchant("shop-1", "orders")
        recorder.close()
        sys.exit(1 if recorder.failures else 0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
assert recorder.flush(20)
recorder.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with server.client() as client:
        [counter] = client.scan_iter("usage:shop-1:*")
        assert int(client.get(counter)) == 6 + 3 * 7
        assert len(list(client.scan_iter("usage_pipeline:recorder:*"))) == 4
    assert os.getpid()

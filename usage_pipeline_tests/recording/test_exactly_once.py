"""Everything that a recorder says it has is in Redis once, whatever becomes of its requests, its answers and itself."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis.backoff import NoBackoff
from redis.retry import Retry
from usage_recorder.calls import Recording
from usage_recorder.commands import Moment, Record
from usage_recorder.delivery.courier import BUSY
from usage_recorder.delivery.outbox import Outbox
from usage_recorder.delivery.sends import Send
from usage_recorder.delivery.spool import Spool
from usage_recorder.failures import RecordFailures
from usage_recorder.recorder import Recorder
from usage_recorder.script import RECORD

from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.faults.failover import Pair
from usage_pipeline_tests.torture.faulty_link import FAULTS, FaultyLink
from usage_pipeline_tests.torture.servers import NO_PERSISTENCE, RedisServer, Stage

FAMILIES = ("api_key", "provider", "token", "merchant", "event")
TIMEOUT_SECONDS = 0.05
# (key, field) -> amount
Counts = Counter[tuple[str, str]]


def record(
    recorder: Recording[Any, Any], family: str, name: str, amount: int
) -> tuple[Any, dict[tuple[str, str], int]]:
    """The outcome of one call (or an awaitable of it), and what it adds."""
    day = datetime.now(UTC).date()
    odometer = f"usage_pipeline:recorded:{family}:{day}"
    if family == "api_key":
        key = f"apikey:{name}:metrics"
        outcome = recorder.record_api_key(name, requests=amount, file_size=7 * amount)
        counts = {"total_requests": amount, "successful_requests": amount, "total_file_size": 7 * amount}
    elif family == "provider":
        key = f"provider:{name}:s3:metrics"
        outcome = recorder.record_provider(name, "s3", user_id="user-1", uploads=amount)
        counts = {"upload_count": amount}
    elif family == "token":
        key = f"token_usage:{name}:host:80"
        outcome = recorder.record_token(name, "host:80", count=amount)
        counts = {"usage_count": amount}
    elif family == "merchant":
        key = f"usage:{name}:{day}:orders"
        outcome = recorder.record_merchant(name, "orders", value=amount)
        counts = {"metric_value": amount}
    else:
        key = "event_queue"
        outcome = recorder.record_event(name, user_id="u", provider="s3", event_type="upload", file_size=amount)
        counts = {"file_size": amount}
    both = {(place, field): count for field, count in counts.items() for place in (key, odometer)}
    events = {("event_queue", "events"): 1} if family == "event" else {}
    return outcome, {**both, **events, (odometer, "records"): 1}


def taken_from(client: redis.Redis) -> Counts:
    """Takes the counters away as a drain does, and the odometers, which a drain leaves."""
    counts: Counts = Counter()
    for pattern in ("apikey:*:metrics", "provider:*", "usage_pipeline:recorded:*"):
        for key in client.scan_iter(pattern):
            for field, value in _popped(client, key, "HGETALL").items():
                if field not in (b"last_used_at", b"user_id", b"provider", b"life"):
                    counts[key.decode(), field.decode()] += int(value)
    for key in client.scan_iter("token_usage:*"):
        counts[key.decode(), "usage_count"] += json.loads(_popped(client, key, "GET"))["usageCount"]
    for key in client.scan_iter("usage:*"):
        counts[key.decode(), "metric_value"] += int(_popped(client, key, "GET"))
    for key in client.scan_iter("event_queue"):
        for item in client.execute_command("LRANGE", _renamed(client, key), 0, -1):
            counts["event_queue", "events"] += 1
            counts["event_queue", "file_size"] += json.loads(item)["file_size"]
    return counts


def _renamed(client: redis.Redis, key: bytes) -> bytes:
    name = b"taken:%d" % random.getrandbits(64)
    client.rename(key, name)
    return name


def _popped(client: redis.Redis, key: bytes, command: str) -> Any:
    return client.execute_command(command, _renamed(client, key))


def die(recorder: Recorder) -> None:
    """What is left of a recorder after SIGKILL: its spool file, unlocked."""
    recorder._courier._should_stop = True
    recorder._courier._hurry.set()
    if (thread := recorder._courier._thread) is not None:
        thread.join(30)
    BUSY.discard(recorder._courier)
    if (spool := recorder._outbox._spool) is not None:
        spool.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"), ("appendonly no",))
    running.start()
    yield running
    running.stop()


class Recorders(RuleBasedStateMachine):
    """Recorders with and without a spool file behind links that fail, and a drain that takes what they wrote."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        self.client = self.stack.enter_context(self.server.client())
        self.client.flushall()
        self.folder = Path(self.stack.enter_context(TemporaryDirectory()))
        self.links = [self.stack.enter_context(FaultyLink(self.server.port)) for _ in range(2)]
        self.recorders = [self._recorder(number) for number in range(2)]
        self.recorded, self.found = Counts(), Counts()

    def _recorder(self, number: int) -> Recorder:
        spool: dict[str, Any] = {"spool": self.folder / "spool"} if number == 0 else {}
        return Recorder.connect(self.links[number].url, timeout_seconds=TIMEOUT_SECONDS, **spool)

    @rule(
        number=st.integers(0, 1),
        family=st.sampled_from(FAMILIES),
        name=st.sampled_from(["a", "b"]),
        amount=st.integers(0, 9),
        times=st.integers(1, 4),
    )
    def record(self, number: int, family: str, name: str, amount: int, times: int) -> None:
        for _ in range(times):
            outcome, counts = record(self.recorders[number], family, name, amount)
            assert outcome
            self.recorded.update(counts)

    @rule(number=st.integers(0, 1), fault=st.sampled_from(FAULTS))
    def fail(self, number: int, fault: Any) -> None:
        self.links[number].fault = fault

    @rule(number=st.integers(0, 1))
    def delayed_requests_arrive(self, number: int) -> None:
        self.links[number].release()

    @rule(seconds=st.sampled_from([0.02, 0.1]))
    def redis_pauses(self, seconds: float) -> None:
        self.client.execute_command("CLIENT", "PAUSE", int(seconds * 1000))

    @rule()
    def redis_forgets_its_scripts(self) -> None:
        self.client.script_flush()

    @rule(number=st.integers(0, 1), seconds=st.sampled_from([0, 0.1]))
    def flush(self, number: int, seconds: float) -> None:
        self.recorders[number].flush(seconds)

    @rule()
    def drain(self) -> None:
        self.found.update(taken_from(self.client))

    @precondition(lambda self: self.recorders)
    @rule()
    def one_is_killed_and_started_again(self) -> None:
        die(self.recorders[0])
        self.recorders[0] = self._recorder(0)

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        with self.stack:
            for link in self.links:
                link.fault = "none"
            for number, recorder in enumerate(self.recorders):
                assert recorder.flush(30), f"recorder {number} does not come to rest"
            for recorder in self.recorders:
                recorder.close()
                assert recorder.failures == {}
            for link in self.links:
                link.end_connections()
            wait_until(self._has_been_read, "what was delayed is done")
            self.found.update(taken_from(self.client))
            assert +self.found == +self.recorded
            spool = (self.folder / "spool").read_bytes().splitlines()
            assert len(spool) == 1, "nothing is on its way"

    def _has_been_read(self) -> bool:
        """Whether the server has closed all connections but ours: it has done what came over them."""
        return len(self.client.client_list()) <= 1


def test_recorders_that_stall_and_retry_and_die_are_counted_once(server: RedisServer) -> None:
    machine = type("Machine", (Recorders,), {"server": server})
    run_state_machine_as_test(
        # A smaller example would need as many seconds again for each try.
        machine,
        settings=hypothesis_settings(max_examples=25, stateful_step_count=25, phases=[Phase.explicit, Phase.generate]),
    )


def test_after_a_fail_over_counters_and_numbers_are_of_one_history(tmp_path: Path) -> None:
    """What the replica had not received is forgotten with its number, and what had no answer counts once on the new primary."""
    with Pair(Stage(tmp_path), NO_PERSISTENCE) as pair:
        recorder = Recorder.connect(pair.front.url, timeout_seconds=0.25)
        kept = doubtful = 0
        for _ in range(3):
            for _ in range(5):
                assert recorder.record_merchant("shop-1", "orders")
            assert recorder.flush(30)
            kept += 5
            with pair.primary.client() as client, client.client() as pinned:
                pinned.set("written", 1)
                assert pinned.wait(1, 5_000) == 1
            # Of these five the replica hears nothing.
            pair.link.hold()
            for _ in range(5):
                assert recorder.record_merchant("shop-1", "orders")
            answered = 5 - recorder.kept
            # This one is done by the old primary, and nobody hears of it.
            pair.front.hold()
            assert recorder.record_merchant("shop-1", "orders")
            doubtful += 6 - answered
            pair.fail_over()
            assert recorder.flush(30)
            with pair.primary.client() as client:
                [counter] = client.scan_iter("usage:shop-1:*")
                assert int(client.get(counter)) == kept + doubtful
                [odometer] = client.scan_iter("usage_pipeline:recorded:*")
                assert int(client.hget(odometer, "records")) == kept + doubtful
            pair.rejoin()
        recorder.close()
        assert recorder.failures == {}


def copied(recorder: Recorder, url: str) -> Recorder:
    """What a restored snapshot of the machine has beside the recorder itself: its id, its lanes and its numbers."""
    copy = Recorder.connect(url, timeout_seconds=TIMEOUT_SECONDS)
    ours, theirs = recorder._outbox, copy._outbox
    theirs.recorder_id = ours.recorder_id
    theirs._numbers, theirs._free = ours._numbers.copy(), ours._free.copy()
    theirs._doubtful.extend(deepcopy(ours._doubtful))
    return copy


def test_a_copy_of_a_process_takes_other_numbers_and_all_that_both_record_counts(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    recorded: Counts = Counter()
    with server.client() as client, FaultyLink(server.port) as link:
        client.flushall()
        first = Recorder.connect(link.url, timeout_seconds=TIMEOUT_SECONDS)
        recorders = [first]
        for turn in range(60):
            if turn in (10, 30):
                assert first.flush(30)
                recorders.append(copied(first, link.url))
            link.fault = "cut after the request" if turn % 7 == 6 else "none"
            for recorder in recorders:
                outcome, counts = record(recorder, FAMILIES[turn % 5], "ab"[turn % 2], 1 + turn % 3)
                assert outcome
                recorded.update(counts)
        link.fault = "none"
        for recorder in recorders:
            assert recorder.flush(30)
            recorder.close()
            assert recorder.failures == {}
        assert taken_from(client) == recorded
        assert len(list(client.scan_iter("usage_pipeline:recorder:*"))) == 3
    assert [one.message for one in caplog.records if "a copy of this process" in one.message] != []


def test_what_is_in_doubt_when_a_process_is_copied_counts_once(server: RedisServer) -> None:
    with server.client() as client, FaultyLink(server.port) as link:
        client.flushall()
        first = Recorder.connect(link.url, timeout_seconds=TIMEOUT_SECONDS)
        link.fault = "lose answers"
        assert first.record_merchant("shop-1", "orders")
        die(first)
        copies = [copied(first, server.url) for _ in range(2)]
        for recorder in copies:
            assert recorder.record_merchant("shop-1", "orders")
            assert recorder.flush(30)
            recorder.close()
        link.end_connections()
        [counter] = client.scan_iter("usage:shop-1:*")
        assert int(client.get(counter)) == 3


# The C function, since os.fork() tells the recorder. Nobody tells a process that it was copied.
RECORDS_IN_A_COPY = """
import ctypes, os, sys
from usage_recorder import Recorder
recorder = Recorder.connect(sys.argv[1], timeout_seconds=5)
for _ in range(5):
    assert recorder.record_merchant("shop-1", "orders")
child = ctypes.PyDLL(None).fork()
for _ in range(20):
    assert recorder.record_merchant("shop-1", "orders")
assert recorder.flush(30)
assert recorder.failures == {}
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
recorder.close()
"""


def test_a_process_that_was_copied_while_it_ran_and_its_copy_lose_nothing(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()
        command = [sys.executable, "-c", RECORDS_IN_A_COPY, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        [counter] = client.scan_iter("usage:shop-1:*")
        assert int(client.get(counter)) == 5 + 2 * 20
    assert done.stderr.count("a copy of this process") == 1


def test_a_client_that_repeats_requests_by_itself_is_not_taken_for_a_copy(server: RedisServer) -> None:
    with server.client() as client, FaultyLink(server.port) as link:
        client.flushall()
        own = redis.Redis.from_url(link.url, socket_timeout=TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 3))
        recorder = Recorder(own)
        link.fault = "cut after the request"
        assert recorder.record_merchant("shop-1", "orders")
        link.fault = "none"
        assert recorder.record_merchant("shop-1", "orders")
        assert recorder.flush(30)
        recorder.close()
        [counter] = client.scan_iter("usage:shop-1:*")
        assert int(client.get(counter)) == 2
        assert len(list(client.scan_iter("usage_pipeline:recorder:*"))) == 1


def test_a_copy_on_a_cluster_and_with_a_spool_file_is_sent_again_by_the_next_recorder(
    server: RedisServer, tmp_path: Path
) -> None:
    """The process is killed after it learned that its number is another's, and before it sent the record again."""
    with server.client() as client:
        client.flushall()
        for is_cluster in (False, True):
            client.flushall()
            path, at = tmp_path / f"spool-{is_cluster}", Moment(1_735_689_600_000, date(2025, 1, 1))
            one = Record("merchant", "usage:shop-1:2025-01-01:orders", at, {"metric_value": 1})

            def sent(send: Send) -> list[Any]:
                return [client.eval(RECORD, *part.words) for part in send.parts]

            first, spool = Outbox(RecordFailures(), is_cluster=is_cluster), Spool(path, is_cluster=is_cluster)
            second = Outbox(RecordFailures(), is_cluster=is_cluster, spool=spool)
            second.recorder_id = first.recorder_id
            ours, theirs = first.begin(one), second.begin(one)
            assert isinstance(ours, Send)
            assert isinstance(theirs, Send)
            assert first.take(ours, sent(ours))
            assert second.take(theirs, sent(theirs))
            assert second.kept == 1
            spool.close()
            failures = RecordFailures()
            third = Outbox(failures, is_cluster=is_cluster, spool=Spool(path, is_cluster=is_cluster))
            for _ in range(2):
                [again] = third.portion(10)
                third.end_portion([again], [sent(again)])
                if not third.has_left():
                    break
            assert int(client.get(one.key) or 0) == 2
            assert not third.has_left()
            third.close()
            assert failures.by_reason == {}

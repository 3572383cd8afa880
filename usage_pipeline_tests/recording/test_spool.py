"""The spool file: what a killed recorder had on its way is sent by the next, once, and a file that does not fit is refused."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from usage_recorder.delivery.spool import Spool, SpoolError
from usage_recorder.recorder import Recorder

from usage_pipeline.local.servers.ports import free_port
from usage_pipeline_tests.recording.test_exactly_once import die
from usage_pipeline_tests.rigs.waiting import wait_until
from usage_pipeline_tests.torture.faulty_link import FaultyLink
from usage_pipeline_tests.torture.servers import RedisServer

# Records, and tells its parent after each call; the parent kills it in the middle of one.
RECORDS_UNTIL_KILLED = """
import sys
from usage_recorder import Recorder
recorder = Recorder.connect(sys.argv[1], timeout_seconds=float(sys.argv[3]), spool=sys.argv[2])
number = 0
while True:
    number += 1
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    assert recorder.record_merchant("shop-1", "orders")
    assert recorder.record_event("key-1", user_id="u", provider="s3", event_type="upload")
"""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"), ("appendonly no",))
    running.start()
    yield running
    running.stop()


def nowhere() -> str:
    return f"redis://127.0.0.1:{free_port()}/0"


def counted(client: redis.Redis) -> int:
    return sum(int(client.get(key) or 0) for key in client.scan_iter("usage:shop-1:*:orders"))


@pytest.mark.parametrize("fault", ["none", "lose answers", "delay requests", "cut after the request"])
def test_a_recorder_that_is_killed_again_and_again_loses_and_doubles_nothing(
    server: RedisServer, tmp_path: Path, fault: str
) -> None:
    begun = finished = 0
    with server.client() as client, FaultyLink(server.port) as link:
        for turn in range(4):
            command = [sys.executable, "-c", RECORDS_UNTIL_KILLED, link.url, str(tmp_path / "spool"), "0.05"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                for line in process.stdout:
                    if int(line) == 10 + turn:
                        link.fault = fault  # type: ignore[assignment]
                    if int(line) == 20 + 2 * turn:
                        break
                process.kill()
                rest = process.stdout.read().split()
            link.fault = "none"
            last = int(rest[-1]) if rest else int(line)
            begun += last
            finished += last - 1
        last_one = Recorder.connect(link.url, timeout_seconds=5, spool=tmp_path / "spool")
        assert last_one.flush(60)
        link.end_connections()
        assert last_one.failures == {}
        last_one.close()
        # Of the last call of each process nobody knows whether it came to its spool file.
        assert finished <= counted(client) <= begun
        items = client.lrange("event_queue", 0, -1)
        assert len(set(items)) == len(items)
        assert finished <= len(items) <= begun
        odometer = next(client.scan_iter("usage_pipeline:recorded:merchant:*"))
        assert int(client.hget(odometer, "records")) == counted(client)
    assert len((tmp_path / "spool").read_bytes().splitlines()) == 1


def test_what_only_waited_is_sent_by_the_next_recorder_too(server: RedisServer, tmp_path: Path) -> None:
    for _ in range(2):
        killed = Recorder.connect(nowhere(), spool=tmp_path / "spool")
        for _ in range(10):
            assert killed.record_merchant("shop-1", "orders")
        die(killed)
    with server.client() as client:
        following = Recorder.connect(server.url, timeout_seconds=5, spool=tmp_path / "spool")
        assert following.flush(30)
        assert counted(client) == 20
        following.close()
        assert following.failures == {}


def test_what_is_left_at_the_end_is_kept_in_the_file_and_not_lost(server: RedisServer, tmp_path: Path) -> None:
    closed = Recorder.connect(nowhere(), spool=tmp_path / "spool")
    assert closed.record_merchant("shop-1", "orders")
    assert closed.record_merchant("shop-1", "orders")
    closed.close(timeout_seconds=0.2)
    assert closed.failures == {}
    with server.client() as client, FaultyLink(server.port):
        following = Recorder.connect(server.url, timeout_seconds=5, spool=tmp_path / "spool")
        assert following.flush(30)
        assert counted(client) == 2
        following.close()


def test_two_recorders_never_share_a_file(tmp_path: Path) -> None:
    first = Recorder.connect(nowhere(), spool=tmp_path / "spool")
    with pytest.raises(SpoolError, match="another one uses it"):
        Recorder.connect(nowhere(), spool=tmp_path / "spool")
    first.close(timeout_seconds=0)
    Recorder.connect(nowhere(), spool=tmp_path / "spool").close(timeout_seconds=0)


def left_by_a_killed_recorder(path: Path) -> list[bytes]:
    """The lines of its file: the first; a send; three that wait."""
    killed = Recorder.connect(nowhere(), spool=path)
    assert killed.record_merchant("shop-1", "orders")
    for number in range(3):
        assert killed.record_merchant(f"shop-1:{number}", "orders")
    die(killed)
    return path.read_bytes().splitlines(keepends=True)


def test_a_line_that_was_written_in_part_is_left_out(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    whole = b"".join(left_by_a_killed_recorder(path))
    path.write_bytes(whole + whole.splitlines()[-1][:40])
    following = Recorder.connect(server.url, timeout_seconds=5, spool=path)
    assert following.flush(30)
    following.close()
    with server.client() as client:
        assert counted(client) == 4
    assert list(tmp_path.glob("*damaged*")) == []


DAMAGED = [
    b"something else\n",
    b"\xff\x00\n",
    b"[" * 5_000 + b"\n",
    *(
        json.dumps(one).encode() + b"\n"
        for one in (
            *(7, [], None, {}, {"s": []}, {"s": [1] * 10}, {"d": [[], {}, 1]}, {"k": "1", "r": []}, {"k": {}, "r": {}}),
            {"s": ["id", 0, 1, "merchant", 1, 2, 0, [["r", [1, "r", 0, 1], 5]], None, []]},
            {"s": ["id", 0, 1, "merchant", 1, 2, 0, [["r", [9, "r", 0, 1], [1]]], None, []], "from": {}},
            {"s": ["id", 0, 1, "merchant", 1, 2, "now", [["r", [1, "r", 0, 1], [1]]], None, []]},
            {"k": 9, "r": ["merchant", "usage:m:2026-03-01:orders", 1, "2026-03-01", {"metric_value": "1"}, [], 1]},
            {"k": 9, "r": ["merchant", "usage:m:2026-03-01:orders", 1, "2026-03-01", [1], [], 1]},
            {"k": 9, "r": ["shop", "usage:m:2026-03-01:orders", 1, "2026-03-01", {"metric_value": 1}, [], 1]},
            {"k": 9, "r": ["api_key", "apikey:k:metrics", 1, "2026-03-01", {"total_requests": 1}, [], 1]},
            {"k": 9, "r": ["token", "token_usage:t:h", 10**30, "2026-03-01", {"usage_count": 1}, ["h"], 1]},
            {"k": 9, "r": ["merchant", "usage:m:2026-03-01:orders", 1, "2026-03-01", {"metric_value": 2**63}, [], 1]},
            {"k": 9, "r": ["merchant", "usage:m:2026-03-01:orders", 1, "2026-03-32", {"metric_value": 1}, [], 1]},
        )
    ),
]


def test_each_damaged_line_is_told_and_set_aside_and_the_others_count(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spool"
    first, *others = left_by_a_killed_recorder(path)
    path.write_bytes(b"".join([first, *DAMAGED, *others]))
    following = Recorder.connect(server.url, timeout_seconds=5, spool=path)
    assert following.flush(30)
    following.close()
    assert following.failures == {}
    with server.client() as client:
        assert counted(client) == 4
    aside = tmp_path / "spool.damaged"
    assert aside.read_bytes() == first + b"".join(DAMAGED)
    assert aside.stat().st_mode & 0o777 == 0o600
    [told] = [one.getMessage() for one in caplog.records if "damaged" in one.getMessage()]
    assert f"{len(DAMAGED)} damaged lines (2, 3, 4, 5, 6, 7, 8, 9, 10, 11…)" in told


def test_what_was_set_aside_and_mended_is_sent_like_any_other_file(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    lines = left_by_a_killed_recorder(path)
    path.write_bytes(b"".join(lines).replace(lines[-1], lines[-1].replace(b'"merchant"', b'"mercha\x00t"')))
    for name in (path, tmp_path / "spool.damaged"):
        following = Recorder.connect(server.url, timeout_seconds=5, spool=name)
        assert following.flush(30)
        following.close()
        with server.client() as client:
            assert counted(client) == (3 if name == path else 4)
        if name == path:
            aside = tmp_path / "spool.damaged"
            aside.write_bytes(aside.read_bytes().replace(b'"mercha\x00t"', b'"merchant"'))


def test_what_a_damaged_send_was_made_of_does_not_count_twice(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    *lines, last = left_by_a_killed_recorder(path)
    entry_id = json.loads(last)["k"]
    path.write_bytes(b"".join([*lines, last, b'{"s":["it was sent"],"from":%d}\n' % entry_id]))
    following = Recorder.connect(server.url, timeout_seconds=5, spool=path)
    assert following.flush(30)
    following.close()
    with server.client() as client:
        assert counted(client) == 3


def deleted(path: Path) -> None:
    path.unlink()


def deleted_with_its_lock(path: Path) -> None:
    path.unlink()
    path.with_name("spool.lock").unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replaced(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"a letter to a friend\n")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"a letter")


@pytest.mark.parametrize("harm", [deleted, deleted_with_its_lock, moved, replaced, emptied, appended])
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_file_that_somebody_takes_away_is_written_anew_with_all_that_waits(
    server: RedisServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    *,
    is_killed: bool,
) -> None:
    path = tmp_path / "spool"
    recorder = Recorder.connect(nowhere(), spool=path)
    for number in range(5):
        assert recorder.record_merchant(f"shop-1:{number}", "orders")
    before = path.stat().st_ino
    harm(path)
    if is_killed:
        # The thread looks, also where nobody records.
        wait_until(
            lambda: path.exists() and path.stat().st_ino != before and path.stat().st_size > 500, "it is written"
        )
        with pytest.raises(SpoolError, match="another one uses it"):
            Recorder.connect(nowhere(), spool=path)
        die(recorder)
    else:
        recorder.close(timeout_seconds=0)
    assert recorder.failures == {}
    assert "by somebody else; it is written anew" in caplog.text
    for name in (path, tmp_path / "moved"):
        following = Recorder.connect(server.url, timeout_seconds=5, spool=name)
        assert following.flush(30)
        following.close()
    with server.client() as client:
        assert counted(client) == 5
    asides = [one.read_bytes() for one in tmp_path.glob("spool.aside-*")]
    assert asides == ([b"a letter to a friend\n"] if harm is replaced else [])


def test_a_folder_that_is_gone_keeps_nothing_from_redis_and_what_is_lost_with_it_is_told(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_recorder.delivery.spool.LOOK_SECONDS", 0)
    folder = tmp_path / "folder"
    folder.mkdir()
    recorder = Recorder.connect(server.url, timeout_seconds=5, spool=folder / "spool")
    with server.client() as client:
        client.config_set("maxmemory", 1)
        for number in range(5):
            assert recorder.record_merchant(f"shop-1:{number}", "orders")
        # In one step: the recorder writes its file anew at any time.
        folder.rename(tmp_path / "gone")
        assert recorder.record_merchant("shop-1:new", "orders")
        assert recorder.failures == {("merchant", "bookkeeping"): 1}
        client.config_set("maxmemory", 0)
        assert recorder.flush(30)
        assert counted(client) == 6
        client.config_set("maxmemory", 1)
        for number in range(2):
            assert recorder.record_merchant(f"shop-1:last-{number}", "orders")
        folder.mkdir()
        assert recorder.record_merchant("shop-1:last", "orders")
        recorder.close(timeout_seconds=0)
        assert recorder.dropped["merchant"] == 0
        client.config_set("maxmemory", 0)
        following = Recorder.connect(server.url, timeout_seconds=5, spool=folder / "spool")
        assert following.flush(30)
        assert counted(client) == 9
        client.config_set("maxmemory", 1)
        assert following.record_merchant("shop-1", "orders")
        folder.rename(tmp_path / "gone too")
        following.close(timeout_seconds=0)
        wait_until(lambda: bool(following.failures), "the last try has ended")
        assert following.failures == {("merchant", "unsent"): 1}


def test_where_the_file_is_is_not_asked_at_each_record(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_recorder.delivery.spool.LOOK_SECONDS", 3_600)
    looks: list[object] = []
    ask = Spool._became
    monkeypatch.setattr(Spool, "_became", lambda spool: looks.append(spool) or ask(spool))
    recorder = Recorder.connect(server.url, timeout_seconds=5, spool=tmp_path / "spool")
    for _ in range(20):
        assert recorder.record_merchant("shop-1", "orders")
    spool = recorder._outbox._spool
    assert looks.count(spool) == 1
    recorder.close()
    assert looks.count(spool) == 2


@pytest.mark.parametrize(
    ("first_line", "complaint"),
    [
        (b'{"usage_recorder_spool":2,"is_cluster":false}\n', "expected format 1 for a single Redis, came format 2"),
        (b'{"usage_recorder_spool":1,"is_cluster":true}\n', "came format 1 for a Redis Cluster"),
        (b"a letter to a friend\n", "expected a file of a recorder"),
        (b"[]\n", "expected a file of a recorder"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(tmp_path: Path, first_line: bytes, complaint: str) -> None:
    path = tmp_path / "spool"
    path.write_bytes(first_line)
    with pytest.raises(SpoolError, match=complaint):
        Recorder.connect(nowhere(), spool=path)
    assert path.read_bytes() == first_line
    with pytest.raises(SpoolError):
        Recorder.connect(nowhere(), spool=tmp_path / "no such folder" / "spool")


def test_a_file_is_emptied_when_all_is_settled_and_written_anew_when_it_grows(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spool"
    monkeypatch.setattr("usage_recorder.delivery.spool._SLACK_BYTES", 4_000)
    recorder = Recorder.connect(server.url, timeout_seconds=5, spool=path)
    header = path.stat().st_size
    assert recorder.record_merchant("shop-1", "orders")
    assert path.stat().st_size == header
    with server.client() as client:
        client.config_set("maxmemory", 1)
        for _ in range(500):
            assert recorder.record_merchant("shop-1", "orders")
        assert path.stat().st_size < 10_000
        client.config_set("maxmemory", 0)
        assert recorder.flush(30)
        assert counted(client) == 501
    assert path.stat().st_size == header
    recorder.close()


def test_a_file_that_is_full_is_told_and_records_go_on(server: RedisServer, tmp_path: Path) -> None:
    recorder = Recorder.connect(server.url, timeout_seconds=5, spool=tmp_path / "spool")
    spool = recorder._outbox._spool
    assert isinstance(spool, Spool)
    spool._most_bytes = 10
    assert recorder.record_merchant("shop-1", "orders")
    assert recorder.failures == {("merchant", "bookkeeping"): 1}
    with server.client() as client:
        assert counted(client) == 1
    recorder.close()


# A limit of the size of files stands for a disk that is full.
OUTLIVES_A_FULL_DISK = """
import os, resource, sys
import redis
from usage_recorder import Recorder
url, path, is_mended_first = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
server = redis.Redis.from_url(url)
recorder = Recorder.connect(url, timeout_seconds=5, spool=path)
server.config_set("maxmemory", 1)
for number in range(40):
    assert recorder.record_api_key(f"key-{number}")
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + 10, limits[1]))
server.config_set("maxmemory", 0)
recorder.flush(1)
assert recorder.record_api_key("new"), "what the file never had goes on"
if is_mended_first:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert recorder.flush(30)
recorder.close(0.5)
"""


@pytest.mark.parametrize("is_mended_first", [True, False])
def test_a_disk_that_is_full_when_redis_is_back_doubles_and_loses_nothing(
    server: RedisServer, tmp_path: Path, is_mended_first: bool
) -> None:
    path = tmp_path / "spool"
    command = [sys.executable, "-c", OUTLIVES_A_FULL_DISK, server.url, str(path), str(is_mended_first)]
    subprocess.run(command, check=True, timeout=60)
    assert (len(path.read_bytes().splitlines()) == 1) == is_mended_first
    following = Recorder.connect(server.url, timeout_seconds=5, spool=path)
    assert following.flush(30)
    following.close()
    with server.client() as client:
        assert {int(client.hget(key, "total_requests") or 0) for key in client.scan_iter("apikey:*:metrics")} == {1}
        assert len(list(client.scan_iter("apikey:*:metrics"))) == 41
    assert following.failures == {}


def test_a_refused_file_is_free_again_when_it_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_bytes(b"a letter to a friend\n")
    with pytest.raises(SpoolError, match="expected a file of a recorder"):
        Recorder.connect(nowhere(), spool=path)
    path.rename(tmp_path / "away")
    Recorder.connect(nowhere(), spool=path).close(timeout_seconds=0)

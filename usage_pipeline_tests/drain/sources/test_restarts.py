"""Redis is started again on its own folder, or on an older copy of it: what is proven certain is not flagged, the rest is."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from usage_pipeline import redis_keys as names
from usage_pipeline.drain.rounds import ALL_FAMILIES, drain_once
from usage_pipeline.drain.sources import node
from usage_pipeline.local.servers.redis import RunningRedis, start_redis, stop_redis
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.drain.rig import Crash, Life, Writer, assert_at_rest, run_until_crash, stored

_FILE = "appendonly.aof"


class Server:
    """A Redis with its folder, which can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: RunningRedis = start_redis(folder)

    def settings(self, database_url: str) -> Settings:
        return load_settings(database_url=database_url, redis_url=self.running.url)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.running.url)

    def start_again(self, older: Path | None = None) -> None:
        """After an orderly stop; with `older`, on that copy of the folder."""
        stop_redis(self.running)
        if older is not None:
            shutil.copyfile(older, self.running.data_folder / _FILE)
        self.running = start_redis(self.folder)

    def kill(self) -> None:
        self.running.process.kill()
        self.running.process.wait(30)

    def copy(self, to: Path) -> Path:
        """Its data as they are now: each answer is in its file."""
        return Path(shutil.copyfile(self.running.data_folder / _FILE, to))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "redis")
    yield server
    stop_redis(server.running)


def flags(postgres: psycopg.Connection) -> list[bool]:
    return [flag for (flag,) in postgres.execute("select is_uncertain from ops.sync_batches order by applied_at")]


def write_and_drain(server: Server, database_url: str, *ids: str) -> dict[str, Writer]:
    writers = {family: Writer(server.client(), f"{ids[0]}-") for family in ALL_FAMILIES}
    for family, writer in writers.items():
        writer.write(family, list(ids))
    drain_once(server.settings(database_url))
    return writers


@pytest.mark.parametrize("is_orderly", [True, False])
def test_a_restart_between_drains_leaves_nothing_uncertain_and_nothing_to_say(
    server: Server,
    database_url: str,
    postgres: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
    is_orderly: bool,
) -> None:
    """Also when it is killed: with `appendfsync always` its file has each answer."""
    for ids in (["a", "b"], ["c"], ["d"]):
        with caplog.at_level(logging.INFO):
            write_and_drain(server, database_url, *ids)
        if not is_orderly:
            server.kill()
        server.start_again()
    assert len(flags(postgres)) >= 3 * len(ALL_FAMILIES)
    assert not any(flags(postgres))
    assert "flagged" not in caplog.text


def test_an_older_file_is_flagged_on_both_sides_and_said_once(
    server: Server, database_url: str, postgres: psycopg.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(server.client())
    writer.write("api_key", ["a"])
    older = server.copy(tmp_path / "older")
    drain_once(server.settings(database_url), ["api_key"])
    assert flags(postgres) == [False]
    server.start_again(older)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            drain_once(server.settings(database_url), ["api_key"])
    doubled = {name: {field: 2 * count for field, count in counts.items()} for name, counts in writer.written.items()}
    assert stored(postgres, "api_key") == doubled, "or there was nothing to flag"
    assert flags(postgres) == [True, True]
    assert caplog.text.count("flagged") == 1


def test_a_file_from_between_two_batches_leaves_the_second_one_uncertain(
    server: Server, database_url: str, postgres: psycopg.Connection, tmp_path: Path
) -> None:
    write_and_drain(server, database_url, "a")
    older = server.copy(tmp_path / "older")
    first = len(flags(postgres))
    write_and_drain(server, database_url, "b")
    server.start_again(older)
    drain_once(server.settings(database_url))
    assert flags(postgres)[:first] == [False] * first, "the older file has their deletion"
    assert all(flags(postgres)[first:])


@pytest.mark.parametrize("family", ["api_key", "token", "event"])
@pytest.mark.parametrize("step", ["before commit", "UNLINK claims"])
def test_a_batch_that_was_under_way_stays_uncertain(
    server: Server, database_url: str, postgres: psycopg.Connection, family: str, step: str
) -> None:
    """Who settles it after the restart did not claim it: that proves nothing of the claim."""
    writer = Writer(server.client())
    writer.write(family, ["a"])

    def crash(_: int, label: str) -> None:
        is_at_step = label.startswith("before UNLINK") and "claim:" in label if "UNLINK" in step else step in label
        if is_at_step:
            raise Crash

    with Life(server.settings(database_url), at_step=crash) as life:
        assert run_until_crash(life, family)
    server.start_again()
    for _ in range(2):
        drain_once(server.settings(database_url), [family])
    assert stored(postgres, family) == writer.written
    assert flags(postgres) == [True]
    with server.client() as client:
        assert_at_rest(client, postgres, family)


def test_notes_of_settled_batches_are_bounded(
    server: Server, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_MOST_SETTLED", 3)
    for number in range(8):
        Writer(server.client(), f"{number}-").write("token", ["a"])
        drain_once(server.settings(database_url), ["token"])
    with server.client() as client:
        assert 3 <= client.hlen(names.settled_batches("token")) <= 4

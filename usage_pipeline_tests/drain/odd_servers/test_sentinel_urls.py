"""REDIS_URL with sentinels: what it names, and what is wrong with one, without a part of it in the message."""

import pytest
from pydantic import ValidationError
from usage_recorder import sentinel
from usage_recorder.recorder import Recorder

from usage_pipeline.settings import load_settings


def test_the_parts_are_read_as_redis_py_reads_them() -> None:
    url = "redis+sentinel://me:p%40ss@one:1,two,[::1]:3/my%2Fmaster/2?sentinel_password=s%26x&health_check_interval=5"
    asked = sentinel.read(url)
    assert (asked.sentinels, asked.service) == ((("one", 1), ("two", 26379), ("::1", 3)), "my/master")
    options = sentinel.pool(url, protocol=2).connection_kwargs
    shown = {name: options[name] for name in ("username", "password", "db", "health_check_interval", "protocol")}
    assert shown == {"username": "me", "password": "p@ss", "db": 2, "health_check_interval": 5, "protocol": 2}
    assert "p%40ss" not in repr(asked)
    assert "s%26x" not in repr(asked)


@pytest.mark.parametrize(
    ("end", "of_sentinels"), [("", True), ("&sentinel_tls=true", True), ("&sentinel_tls=false", False)]
)
def test_tls_is_spoken_with_the_sentinels_too_unless_the_url_says_otherwise(end: str, of_sentinels: bool) -> None:
    pool = sentinel.pool(f"rediss+sentinel://one:1/main?ssl_ca_certs=/ca.pem&ssl_check_hostname=false{end}")
    assert "SSL" in pool.connection_class.__name__
    assert pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
    [asked] = pool.sentinel_manager.sentinels  # type: ignore[attr-defined]
    assert ("SSL" in asked.connection_pool.connection_class.__name__) is of_sentinels


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://:secret@one:1", "the name of the primary among the sentinels"),
        ("redis+sentinel://:secret@one:1/", "the name of the primary among the sentinels"),
        ("redis+sentinel://:secret@one:1/main/zero", "the name of the primary among the sentinels"),
        ("redis+sentinel://:secret@/main", "expected HOST:PORT of each sentinel"),
        ("redis+sentinel://:secret@one:1,/main", "expected HOST:PORT of each sentinel"),
        ("redis+sentinel://:secret@one:70000/main", "expected HOST:PORT of each sentinel"),
        ("redis+sentinel://:sec@ret@one:1/main", "expected one @, before the hosts"),
        ("redis+sentinel://:secret@one:1/main#x", "expected no #"),
        ("redis+sentinel://:secret@one:1/main?nonsense=secret", "expected parameters that the client of Redis knows"),
        ("redis+sentinel://:secret@one:1/main?sentinel_pasword=secret", "the name of the primary among the sentinels"),
        (
            "redis+sentinel://:secret@one:1/main?sentinel_tls=perhaps",
            "expected sentinel_tls=true or sentinel_tls=false",
        ),
        ("redis+cluster://:secret@one:1/main", "redis+sentinel://"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_repeating_it(url: str, said: str) -> None:
    with pytest.raises((ValidationError, ValueError)) as raised:
        load_settings(redis_url=url)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "ret@" not in str(raised.value)


def test_the_recorder_refuses_it_in_a_line_too() -> None:
    with pytest.raises(ValueError, match=r"redis\+sentinel") as raised:
        Recorder.connect("redis+sentinel://:secret@one:1/")
    assert "secret" not in str(raised.value)

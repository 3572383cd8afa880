"""Passwords in odd URLs are in nothing that is printed, logged, raised or stored.

Each password is made of CORES with odd characters between them. CORES have letters and digits only, so percent-encoding,
`repr` and escapes leave them as they are: whoever shows a long part of the password shows a core.
"""

import logging
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote, unquote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from usage_recorder.async_recorder import AsyncRecorder
from usage_recorder.recorder import Recorder

from usage_pipeline.cli import main
from usage_pipeline.events.landing.folder import Landing, folder_error
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline.storage.connecting.database import Database
from usage_pipeline.storage.migrations import migrate
from usage_pipeline.storage.postgres import PostgresUnavailable, connect, connect_to
from usage_pipeline.storage.redis import PinnedConnection, RedisUnavailable, client
from usage_pipeline_tests.commands.every_command import FILES, every_command

COUNT = 10_000
SEEDS = range(8)
CORES = ("zq7wkv", "XVTQJR", "58973", "4917")
# Among them: what NFKC turns into / and @, a lone surrogate (a byte of the environment that is no UTF-8), controls, bidi.
ODD = [*"% /?#@:[]\\&=+,;'\"<>^`{|}~$!*", *"\t\n\r\x1b\x7f\x85\u00a0\u2028\u202e\u2100\uff20é\udc80"]
ENCODED = ["%2F", "%40", "%25", "%zz", "%0", "%00", "%C3%A9", "%0A"]
SCHEMES = {
    "DATABASE_URL": ("postgresql", "postgres", "postgresql+psycopg", "POSTGRESQL", "jdbc:postgresql", "mysql"),
    "REDIS_URL": ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "REDIS"),
}
SCHEMES["DB_URL"] = SCHEMES["DAGSTER_POSTGRES_URL"] = SCHEMES["DATABASE_URL"]
PLACES = ("127.0.0.1:1", "127.0.0.1", "[::1]:1", "", "h,t", "[", "[::1", "127.0.0.1:1,127.0.0.1:1", "%2Fno%2Fsuch")
OTHERS = (
    "REDIS_PASSWORD",
    "REDIS_HOST",
    "REDIS_PORT",
    "DB_POOL_SIZE",
    "ERASURE_SECRET",
    "ALERT_URLS",
    "USAGE_TIMEZONE",
)


def odd(chance: random.Random, most: int = 2) -> str:
    return "".join(chance.choice(ODD if chance.random() < 0.7 else ENCODED) for _ in range(chance.randint(0, most)))


def password(chance: random.Random) -> str:
    return "".join(odd(chance) + core for core in chance.sample(CORES, chance.randint(1, 4))) + odd(chance, 1)


def url(chance: random.Random, schemes: tuple[str, ...]) -> str:
    """A URL with a password somewhere, and with odd characters anywhere."""
    secret, place = password(chance), chance.choice(PLACES) + odd(chance) * (chance.random() < 0.2)
    if chance.random() < 0.1:
        secret = quote(secret.encode(errors="replace"), safe="")
    user = f"user{odd(chance, 1) * (chance.random() < 0.2)}" * (chance.random() < 0.7)
    path = chance.choice(["", "/", "/0", "/usage", f"/{odd(chance)}", "/no/such.sock"])
    query = chance.choice(
        ["", "", "?", "?sslmode=disable", "?no_such=1", "?db=0&protocol=2", f"?{odd(chance)}", "?port=x"]
    )
    rest = chance.choice(
        [
            *[f"{user}:{secret}@{place}{path}{query}"] * 6,
            # Without an @ nothing is a password; digits alone are a port.
            f"user:x{secret.replace('@', '')}{place}{path}",
            f"{place}{path}?password={secret}&user={user}",
            f"{place}?user={user}&password={secret}",
            f"{user}:{secret}@{path}?host=/no/such",
        ]
    )
    scheme = schemes[0] if chance.random() < 0.6 else chance.choice(schemes)
    return chance.choice([*[f"{scheme}://{rest}"] * 9, f"host=127.0.0.1 port=1 password={secret}"])


def variables(seed: int) -> Iterator[tuple[str, str]]:
    chance = random.Random(seed)
    for _ in range(COUNT // len(SEEDS)):
        name = chance.choice([*SCHEMES, *SCHEMES, *SCHEMES, *OTHERS, "EXTERNAL_API_BASE_URL"])
        if name in SCHEMES:
            value = url(chance, SCHEMES[name])
        elif name == "EXTERNAL_API_BASE_URL":
            value = url(chance, ("https", "http"))
        elif name == "ALERT_URLS":
            value = f"json://127.0.0.1/,{password(chance)}"
        elif name in ("REDIS_HOST", "REDIS_PORT", "DB_POOL_SIZE"):
            value = url(chance, SCHEMES["REDIS_URL"])  # a password alone may be the name of a host, or a number
        else:
            value = chance.choice([password(chance), url(chance, SCHEMES["REDIS_URL"])])
        # NUL and an empty value cannot come from an environment, or mean nothing.
        yield name, value


def texts_of(error: BaseException) -> Iterator[str]:
    """Everything that somebody may show of an error: its traceback, and all errors behind it, suppressed ones too."""
    yield "".join(traceback.format_exception(error))
    behind: BaseException | None = error
    while behind is not None:
        yield f"{behind!s} {behind!r} {behind.args!r}"
        behind = behind.__cause__ or behind.__context__


def cores_in(text: str) -> list[str]:
    lower = text.lower()
    return [core for core in CORES if core.lower() in lower]


def tried(work: Callable[[], object], expected: type[Exception] | tuple[type[Exception], ...]) -> Iterator[str]:
    """What the work's error shows; the work may succeed, and fails in no other way."""
    try:
        work()
    except expected as error:
        yield from texts_of(error)


def loaded() -> Settings | SettingsError:
    try:
        return load_settings(connect_timeout_seconds=2)
    except SettingsError as refusal:
        return refusal


def looked_at(settings: Settings) -> Iterator[str]:
    """What is shown by settings that were taken: themselves, what the clients read as a place, and errors of connecting.

    Clients connect only to addresses of this machine at which nobody listens, so that no name is looked up.
    """
    yield f"{settings!r} {settings!s} {settings.model_dump()!r}"
    named = settings.dagster_postgres_url or settings.database_url
    read = conninfo_to_dict(named.get_secret_value())
    yield repr({name: value for name, value in read.items() if name not in ("user", "password")})
    if str(read.get("host")) in ("127.0.0.1", "::1", "/no/such"):
        here = settings.model_copy(update={"database_url": named})
        yield from tried(lambda: connect(here).close(), PostgresUnavailable)
    try:
        pool = client(settings).connection_pool
    except RedisUnavailable as error:
        yield from texts_of(error)
        return
    read = pool.connection_kwargs
    yield repr({name: value for name, value in read.items() if name not in ("username", "password")})
    if (read.get("host") in ("127.0.0.1", "::1", None) and read.get("port") == 1) or "path" in read:
        yield from tried(lambda: PinnedConnection(client(settings)), RedisUnavailable)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_part_of_a_password_is_shown_by_ten_thousand_odd_settings(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    taken = refused = 0
    shown = []
    for name, value in variables(seed):
        with monkeypatch.context() as environment:
            if value:
                environment.setenv(name, value)
            found = loaded()
        if isinstance(found, Settings):
            taken += 1
            texts = list(looked_at(found))
        else:
            refused += 1
            assert str(found).startswith(f"{name.replace('DB_URL', 'DATABASE_URL')}: ")
            assert str(found).isprintable(), "one line"
            texts = list(texts_of(found))
        texts += [caplog.text, *capfd.readouterr()]
        caplog.clear()
        if cores := cores_in("\n".join(texts)):
            shown.append((name, value, cores, next(text for text in texts if cores_in(text))[-300:]))
    assert shown[:20] == [], f"{len(shown)} in all"
    assert min(taken, refused) > 100, "it reaches the clients"


def test_clients_that_are_given_a_url_themselves_do_not_show_it_either() -> None:
    """The recorder is used without our settings, and settings can be copied with other values."""
    chance = random.Random(15)
    shown = []
    for _ in range(500):
        given, other = url(chance, ("redis", "rediss", "unix")), url(chance, ("postgresql",))
        settings = load_settings().model_copy(update={"redis_url": SecretStr(given), "connect_timeout_seconds": 2})
        works: list[Callable[[], object]] = [
            partial(Recorder.connect, given),
            partial(AsyncRecorder.connect, given),
            partial(client, settings),
        ]
        if conninfo_fails(other):
            works += [partial(connect_to, Database(other, 2)), partial(migrate, other)]
        for work in works:
            texts = tried(work, (ValueError, TypeError, RedisUnavailable, PostgresUnavailable))
            shown += [(given, other, work) for text in texts if cores_in(text)]
    assert shown == []


def conninfo_fails(url: str) -> bool:
    try:
        conninfo_to_dict(url)
    except (psycopg.ProgrammingError, UnicodeError):
        return True
    return False


def commands() -> list[list[str]]:
    """Every command, with what it needs. The demo has servers of its own, whatever the settings say, and a hash needs none."""
    return [one.call() for one in every_command() if one.words not in (("demo",), ("ui-password",))]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_a_command_with_a_url_that_cannot_be_read_says_so_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for name, value in (
        ("DATABASE_URL", "postgresql://u:zq7wkv%zzXVTQJR@127.0.0.1:1/usage"),
        ("DATABASE_URL", "postgresql://u:zq7wkv XVTQJR@127.0.0.1:1/usage"),
        ("DAGSTER_POSTGRES_URL", "postgresql://u:4917/zq7wkv@127.0.0.1:1/usage"),
        ("REDIS_URL", "redis://:zq7wkv/XVTQJR@127.0.0.1:1/0"),
        ("REDIS_URL", "redis://:zq7wkv?XVTQJR#58973@127.0.0.1:1/0"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            environment.setattr(sys, "argv", ["usage-pipeline", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        printed = "".join(capfd.readouterr())
        assert cores_in(printed) == []
        assert ended.value.code == 2, printed
        assert any(line.startswith(f"usage-pipeline: {name}: expected ") for line in printed.splitlines()), printed


def test_a_command_of_its_own_process_says_it_in_one_line_of_its_standard_error() -> None:
    environment = os.environ | {"DATABASE_URL": "postgresql://u:zq7wkv%zzXVTQJR@127.0.0.1:1/usage"}
    call = [sys.executable, "-c", "from usage_pipeline.cli import main; main()", "migrate"]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("usage-pipeline: DATABASE_URL: expected ")
    assert cores_in(line) == []


def test_an_error_of_the_landing_folder_is_told_without_the_password_of_its_address(tmp_path: Path) -> None:
    for written in ("zq7wkv", "zq7%20wkv", "zq7/wkv"):
        address = f"sftp://user:{written}@host/landing"
        for shown in (written, unquote(written)):
            error = PermissionError(f"cannot open sftp://user:{shown}@host/landing/a.jsonl as {shown}")
            told = folder_error(error, address)
            assert shown not in told
            assert told.startswith("PermissionError: cannot open sftp://user:")
    landing = Landing(str(tmp_path))
    landing._url = "sftp://user:zq7wkv@host/landing"
    refusal = PermissionError("cannot list sftp://user:zq7wkv@host/landing")
    with (
        patch.object(landing.files, "ls", side_effect=refusal),
        pytest.raises(OSError, match="PermissionError: cannot") as raised,
    ):
        landing.look()
    assert cores_in("".join(texts_of(raised.value))) == []
    plain = PermissionError("[Errno 13] Permission denied: 'a.jsonl'")
    assert folder_error(plain, str(tmp_path)) == "PermissionError: [Errno 13] Permission denied: 'a.jsonl'"
    settings = load_settings(landing_url="sftp://u:zq7wkv@host/landing", archive_url="s3://u:XVTQJR@bucket/archive")
    assert cores_in(f"{settings!r} {settings!s}") == []

"""Signing in to the Dagster UI: the password, bounded tries, and the header of a proxy."""

import asyncio
import hashlib
import subprocess
import sys
from base64 import b64encode
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from usage_pipeline.access.proxies import TrustedProxies
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline.ui.login import MOST_WRONG, MOST_WRONG_OF_ADDRESS, Login
from usage_pipeline.ui.password import PasswordHash, hash_password

# Of the documentation of passlib: "password".
PASSLIB = "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"
# As cheap as it may be, for tests with many tries.
SALT = b"0123456789abcdef"
CHEAP = PasswordHash(10, 8, 1, SALT, hashlib.scrypt(b"open sesame", salt=SALT, n=1024, r=8, p=1, dklen=32))


def basic(password: str, user: str = "anybody") -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def asked(login: Login, headers: dict[str, str], address: str = "10.9.9.9") -> int:
    """The status of the refusal, or 0."""
    found = asyncio.run(login.refusal(Headers(headers), address))
    return found.status if found else 0


def test_a_hash_of_passlib_is_known_and_ours_are_salted() -> None:
    known = PasswordHash.parse(PASSLIB)
    assert (known.is_of(b"password"), known.is_of(b"Password")) == (True, False)
    first, second = hash_password("crème brûlée"), hash_password("crème brûlée")
    assert first != second
    assert PasswordHash.parse(first).is_of("crème brûlée".encode())
    load_settings(dagster_ui_password_hash=first)


def test_a_hash_is_printed_nowhere() -> None:
    digest = PASSLIB.rpartition("$")[2]
    assert digest not in repr(load_settings(dagster_ui_password_hash=PASSLIB))
    assert "salt" not in repr(PasswordHash.parse(PASSLIB))
    with pytest.raises(SettingsError) as raised:
        load_settings(dagster_ui_password_hash=PASSLIB.replace("scrypt", "md5"))
    assert digest not in str(raised.value)


@pytest.mark.parametrize("text", ["", "secret", PASSLIB.replace("ln=16", "ln=30"), PASSLIB + "\n", "=16,r=8"])
def test_another_text_than_a_hash_is_refused_at_the_start(text: str) -> None:
    """The empty one, too: a variable that was not set must not open the door. `ln=30` would take a gigabyte a try."""
    with pytest.raises((SettingsError, ValidationError)):
        load_settings(dagster_ui_password_hash=text)


def test_without_a_password_nobody_is_asked_and_with_one_everybody_is() -> None:
    assert asked(Login(), {}) == 0
    login = Login(CHEAP)
    assert asked(login, {}) == 401
    assert asked(login, basic("open sesame")) == 0
    assert asked(login, basic("open sesame", user="")) == 0
    for headers in (basic("x"), basic(""), {"authorization": "Basic !"}, {"authorization": "Bearer open sesame"}):
        assert asked(login, headers) == 401, headers
    found = asyncio.run(login.refusal(Headers({}), "10.0.0.1"))
    assert found is not None
    assert dict(found.headers)["WWW-Authenticate"].startswith("Basic ")


def test_tries_are_bounded_for_an_address_and_in_all_and_who_is_signed_in_stays() -> None:
    clock = Clock()
    login = Login(CHEAP, clock=clock)
    assert asked(login, basic("open sesame"), "10.0.0.1") == 0
    wrong = [asked(login, basic(f"guess {n}"), "10.0.0.2") for n in range(MOST_WRONG_OF_ADDRESS + 2)]
    assert wrong == [401] * MOST_WRONG_OF_ADDRESS + [429] * 2
    fresh = Login(CHEAP, clock=clock)
    for n in range(MOST_WRONG_OF_ADDRESS):
        asked(fresh, basic(f"guess {n}"), "10.0.0.2")
    assert asked(fresh, basic("open sesame"), "10.0.0.2") == 429, "a right one would tell"
    assert asked(fresh, basic("open sesame"), "10.0.0.3") == 0
    for n in range(MOST_WRONG):
        asked(login, basic(f"guess {n}"), f"10.1.0.{n}")
    assert asked(login, basic("another"), "10.2.0.1") == 429
    assert asked(login, basic("open sesame"), "10.2.0.1") == 0, "it was right before"
    clock.now += 61
    assert asked(login, basic("another"), "10.2.0.1") == 401


def test_strangers_do_not_keep_out_who_knows_the_password() -> None:
    """Thirty wrong ones a minute, from six addresses, refused every right one for as long as they went on."""
    clock = Clock()
    login = Login(CHEAP, clock=clock)
    for n in range(MOST_WRONG):
        assert asked(login, basic(f"guess {n}"), f"10.1.0.{n}") == 401
    clock.now += 1
    assert asked(login, basic("open sesame"), "10.2.0.1") == 429
    clock.now += 1
    assert asked(login, basic("open sesame"), "10.2.0.1") == 0


def test_whoever_has_a_network_of_ipv6_is_one_address() -> None:
    login = Login(CHEAP, clock=Clock())
    wrong = [asked(login, basic(f"guess {n}"), f"2001:db8::{n}") for n in range(MOST_WRONG_OF_ADDRESS + 1)]
    assert wrong == [401] * MOST_WRONG_OF_ADDRESS + [429]


async def test_one_password_of_an_address_waits_for_its_turn() -> None:
    login = Login(CHEAP)
    guesses = [login.refusal(Headers(basic(f"guess {n}")), "10.0.0.1") for n in range(20)]
    other = login.refusal(Headers(basic("open sesame")), "10.0.0.2")
    *found, of_other = await asyncio.gather(*guesses, other)
    assert sorted(one.status for one in found if one) == [401, *[429] * 19]
    assert of_other is None


def test_many_at_once_are_checked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check takes 32 MB."""
    at_work, most, checks = 0, 0, 0

    def is_of(self: PasswordHash, given: bytes) -> bool:
        nonlocal at_work, most, checks
        at_work, checks = at_work + 1, checks + 1
        most, at_work = max(most, at_work), at_work - 1
        return given == b"open sesame"

    monkeypatch.setattr(PasswordHash, "is_of", is_of)
    login = Login(CHEAP)

    async def ask_all() -> list[Any]:
        right = [login.refusal(Headers(basic("open sesame")), "10.0.0.1") for _ in range(50)]
        return list(await asyncio.gather(*right))

    assert asyncio.run(ask_all()) == [None] * 50
    assert (most, checks) == (1, 1), "a page that loads asks fifty times"


def test_the_header_of_a_proxy_counts_from_its_address_only() -> None:
    login = Login(None, TrustedProxies([ip_network("10.0.0.5"), ip_network("10.1.0.0/16")], "X-Forwarded-User"))
    ada = {"x-forwarded-user": "ada"}
    assert [asked(login, ada, address) for address in ("10.0.0.5", "10.1.7.7", "::ffff:10.0.0.5")] == [0, 0, 0]
    assert [asked(login, ada, address) for address in ("10.0.0.6", "127.0.0.1", "unknown")] == [403, 403, 403]
    assert asked(login, {}, "10.0.0.5") == 403
    assert asked(login, {"x-forwarded-user": " "}, "10.0.0.5") == 403
    twice = Headers(raw=[(b"x-forwarded-user", b"ada"), (b"x-forwarded-user", b"eve")])
    assert asyncio.run(login.refusal(twice, "10.0.0.5")) is not None
    both = Login(CHEAP, TrustedProxies([ip_network("10.0.0.5")], "X-Forwarded-User"))
    assert asked(both, ada, "10.0.0.6") == 401
    assert asked(both, basic("open sesame"), "10.0.0.6") == 0


@pytest.mark.parametrize(
    "given",
    [
        {"trusted_user_header": "X-User"},
        {"trusted_proxies": "somewhere"},
        {"trusted_user_header": "X-User", "trusted_proxies": "somewhere"},
        {"trusted_user_header": "X User:", "trusted_proxies": "10.0.0.5"},
        {"dagster_ui_allowed_hosts": "https://dagster.example.com"},
        {"dagster_ui_allowed_hosts": "dagster.example.com:443"},
        {"dagster_ui_allowed_hosts": "*"},
    ],
)
def test_settings_that_would_open_the_door_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        load_settings(**given)


def test_settings_say_hosts_and_networks_one_by_one() -> None:
    found: Settings = load_settings(
        dagster_ui_allowed_hosts="Dagster.example.com, [::2]",
        trusted_user_header="X-User",
        trusted_proxies="10.0.0.5, 10.1.0.0/16",
    )
    assert found.ui_hosts == ("dagster.example.com", "[::2]")
    assert found.trusted_networks == (ip_network("10.0.0.5/32"), ip_network("10.1.0.0/16"))


def ui_password(given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "usage_pipeline.cli", "ui-password"]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_makes_a_line_that_a_shell_and_compose_take_as_it_is() -> None:
    done = ui_password("correct horse battery\n")
    assert done.returncode == 0, done.stderr
    name, _, value = done.stdout.strip().partition("=")
    assert name == "DAGSTER_UI_PASSWORD_HASH"
    assert (value[0], value[-1]) == ("'", "'")
    assert PasswordHash.parse(value[1:-1]).is_of(b"correct horse battery")
    short = ui_password("secret\n")
    assert (short.returncode, short.stdout) == (2, "")
    assert "at least 12 characters, came 6" in short.stderr

"""Header login: whom a trusted proxy names is signed in if that person was invited so, and nobody else says who somebody is."""

import socket
from collections.abc import Iterator
from ipaddress import ip_network

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from usage_pipeline.access.proxies import TrustedProxies
from usage_pipeline.settings import Settings, SettingsError, load_settings
from usage_pipeline_tests.api.session.people import PATH, READ_PATH, browser, by_proxy, invited, status_of
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.service import Service, expect_problem, new_token, serving

HEADER = "X-Forwarded-User"


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return load_settings(
        database_url=database_url, redis_url=redis_url, trusted_user_header=HEADER, trusted_proxies="127.0.0.1"
    )


@pytest.fixture
def elsewhere(database_url: str, redis_url: str) -> Iterator[Service]:
    """A service that trusts another proxy than this machine, which the server itself trusts by default."""
    settings = load_settings(
        database_url=database_url, redis_url=redis_url, trusted_user_header=HEADER, trusted_proxies="10.0.0.5"
    )
    with serving(settings) as service:
        yield service


def test_whom_the_proxy_names_sees_what_was_said(service: Service, run: Run) -> None:
    made = run("invite", "ada@example.com", "--header", "--team", "search")
    assert made.returncode == 0, made.stderr
    assert "http" not in made.stdout
    client = browser(service, **{HEADER: "ada@example.com"})
    assert client.get(PATH).json() == {
        "name": "ada@example.com",
        "scopes": ["read", "users"],
        "bounds": {"team": ["search"], "service": [], "user": []},
        "expiresAt": None,
        "signedInBy": "proxy",
    }
    expect_problem(client.get(READ_PATH), 403, "bound-token")
    detail = expect_problem(client.delete(PATH), 409, "signed-in-by-proxy")
    assert "sign out there" in detail


def test_invited_again_a_person_sees_what_was_said_last(
    service: Service, run: Run, postgres: psycopg.Connection
) -> None:
    client = browser(service, **{HEADER: "ada"})
    for team in ("a", "b", "a"):
        assert run("invite", "ada", "--header", "--team", team).returncode == 0
        assert client.get(PATH).json()["bounds"]["team"] == [team]
    live = "select count(*) from usage.api_access_tokens where revoked_at is null"
    assert postgres.execute(live).fetchone() == (1,)


def test_revoked_or_expired_she_is_out_with_the_next_request(
    service: Service, run: Run, postgres: psycopg.Connection
) -> None:
    client = browser(service, **{HEADER: "ada"})
    prefix = by_proxy(postgres)
    assert client.get(READ_PATH).status_code == 200
    assert run("tokens", "revoke", prefix).returncode == 0
    expect_problem(client.get(READ_PATH), 401, "unauthorized")
    by_proxy(postgres, "eve")
    other = browser(service, **{HEADER: "eve"})
    assert other.get(READ_PATH).status_code == 200
    postgres.execute("update usage.api_access_tokens set expires_at = now() where name = 'eve'")
    expect_problem(other.get(READ_PATH), 401, "unauthorized")


def test_a_name_alone_is_nobody(service: Service, postgres: psycopg.Connection) -> None:
    new_token(postgres, "read", name="loader")
    invited(postgres, "guest")
    by_proxy(postgres, "ada")
    for name in ("loader", "guest", "nobody", "Ada", "ada,ada", "ada eve", "a" * 300, "%", "*"):
        assert status_of(service, (HEADER, name)) == 401, name
    assert status_of(service, (HEADER, "ada")) == 200


def test_nobody_else_says_who_somebody_is(elsewhere: Service, postgres: psycopg.Connection) -> None:
    by_proxy(postgres)
    ada = (HEADER, "ada")
    # uvicorn believes this machine, and would take these for the address of the client.
    for more in (
        [],
        [("X-Forwarded-For", "10.0.0.5")],
        [("X-Forwarded-For", "10.0.0.5, 10.0.0.5"), ("X-Forwarded-Proto", "https")],
        [("Forwarded", "for=10.0.0.5")],
        [("X-Real-IP", "10.0.0.5")],
    ):
        assert status_of(elsewhere, ada, *more) == 401, more


def test_what_the_client_adds_to_the_proxys_header_signs_nobody_in(
    service: Service, postgres: psycopg.Connection
) -> None:
    by_proxy(postgres)
    by_proxy(postgres, "eve")
    assert status_of(service, (HEADER, "ada")) == 200
    assert status_of(service, (HEADER.lower(), " ada ")) == 200
    # The address of the client is what uvicorn says it is, and the proxy is who is connected.
    assert status_of(service, (HEADER, "ada"), ("X-Forwarded-For", "192.0.2.1")) == 200
    assert status_of(service, (HEADER, "ada"), (HEADER, "eve")) == 401
    assert status_of(service, (HEADER, "ada"), (HEADER.lower(), "ada")) == 401
    assert status_of(service, (HEADER, "ada"), (HEADER, "")) == 401
    assert status_of(service, (HEADER, "")) == 401
    assert status_of(service, (HEADER, "  ")) == 401
    # Another name, whatever a proxy makes of it.
    assert status_of(service, ("X_Forwarded_User", "ada")) == 401
    assert status_of(service, (HEADER, "eve"), ("X_Forwarded_User", "ada")) == 200
    assert status_of(service, ("X-Forwarded-User-", "ada")) == 401
    assert status_of(service, ("X-Forwarded-Email", "ada")) == 401


def test_a_folded_header_is_refused_or_no_name(service: Service, postgres: psycopg.Connection) -> None:
    by_proxy(postgres)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(
            f"GET {READ_PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{HEADER}: eve\r\n ada\r\n\r\n".encode()
        )
        answer = b""
        while piece := connection.recv(4_096):
            answer += piece
    assert answer.split(b" ")[1] in (b"400", b"401")


def test_names_are_utf_8(service: Service, postgres: psycopg.Connection) -> None:
    for name in ("Zoë Ünal", "voilà", "Ⅸ"):  # the last bytes of two look like spaces of Latin-1
        by_proxy(postgres, name)
        assert status_of(service, (HEADER, f" {name}\t".encode())) == 200
    assert status_of(service, (HEADER, "Zoë Ünal".encode("latin-1"))) == 401


def test_it_never_writes(service: Service, postgres: psycopg.Connection) -> None:
    by_proxy(postgres)
    client = browser(service, **{HEADER: "ada"})
    expect_problem(client.post("/api/v1/ingest/requests:bulk", json=[]), 403, "forbidden")
    token = new_token(postgres, "ingest")
    headers = {"Authorization": f"Bearer {token}"}
    assert client.post("/api/v1/ingest/requests:bulk", json=[], headers=headers).status_code == 200


def test_a_guest_behind_the_proxy_signs_in_with_a_link(service: Service, postgres: psycopg.Connection) -> None:
    by_proxy(postgres, "eve")
    client = browser(service, **{HEADER: "guest@example.com"})
    assert client.post(PATH, json={"invite": invited(postgres, "guest").code}).status_code == 200
    document = client.get(PATH).json()
    assert (document["name"], document["signedInBy"]) == ("guest", "cookie")
    # Who was invited by name is that person, whoever used this browser before.
    assert client.get(PATH, headers={HEADER: "eve"}).json()["name"] == "eve"
    assert client.delete(PATH).status_code == 204
    assert client.get(PATH).status_code == 401


def test_a_header_without_proxies_is_an_error_at_the_start(run: Run) -> None:
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES: expected the addresses"):
        load_settings(trusted_user_header=HEADER)
    started = run("api", TRUSTED_USER_HEADER=HEADER, TRUSTED_PROXIES="")
    assert started.returncode == 2
    [line] = started.stderr.strip().splitlines()
    assert line.startswith("usage-pipeline: TRUSTED_PROXIES: expected the addresses of the proxies")


def test_proxies_without_a_header_are_for_https_alone() -> None:
    proxies = TrustedProxies.of(load_settings(trusted_proxies="10.0.0.5"))
    assert proxies.user_of(Headers({"x-forwarded-user": "ada"}), "10.0.0.5") is None
    assert proxies.says_https(Headers({"x-forwarded-proto": "https"}), "10.0.0.5")
    assert not proxies.says_https(Headers({"x-forwarded-proto": "https"}), "10.0.0.6")


PROXIES = TrustedProxies([ip_network("10.0.0.0/24"), ip_network("fd00::/64")], HEADER)


@pytest.mark.parametrize("address", ["10.0.0.7", "::ffff:10.0.0.7", "fd00::1"])
def test_an_address_in_a_network_is_that_of_a_proxy(address: str) -> None:
    assert PROXIES.has(address)


@pytest.mark.parametrize(
    "address", [None, "", "10.0.1.7", "10.0.0.7:80", "10.0.0.7 ", "unknown", "fd01::1", "::ffff:10.0.1.7"]
)
def test_any_other_is_not(address: str | None) -> None:
    assert not PROXIES.has(address)


@hypothesis_settings(max_examples=400)
@given(
    value=st.binary(max_size=250), more=st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=30)), max_size=3)
)
def test_whatever_a_header_holds_it_is_a_name_or_nobody(value: bytes, more: list[tuple[bytes, bytes]]) -> None:
    headers = Headers(raw=[(HEADER.lower().encode(), value), *more])
    found = PROXIES.user_of(headers, "10.0.0.7")
    if found is not None:
        assert found == value.strip(b" \t").decode()
        assert found.isprintable()
        assert 1 <= len(found) <= 200
        assert HEADER.lower().encode() not in [name for name, _ in more]
    assert PROXIES.user_of(headers, "10.0.1.7") is None

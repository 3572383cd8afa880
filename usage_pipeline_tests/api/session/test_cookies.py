"""The cookie of a session: its attributes, that it reads and never writes, and that nobody else's page makes use of it."""

import json
import logging
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline.api.app import create_app
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.api.session.people import PATH, READ_PATH, browser, invited, of_team, signed_in, status_of
from usage_pipeline_tests.api.test_read_security import FILES, OPEN, SIGN_IN, read_paths
from usage_pipeline_tests.rigs.service import Service, Shared, expect_problem, new_token, routes_of, serving

HTTPS = {"X-Forwarded-Proto": "https"}


def attributes_of(answer: httpx.Response) -> tuple[str, set[str]]:
    """Name and attributes of the one cookie that an answer sets."""
    [header] = answer.headers.get_list("set-cookie")
    pair, *attributes = header.split("; ")
    return pair.partition("=")[0], set(attributes)


def test_over_http_it_is_strict_and_for_no_script(service: Service, postgres: psycopg.Connection) -> None:
    answer = browser(service).post(PATH, json={"invite": invited(postgres).code})
    name, attributes = attributes_of(answer)
    assert name == "usage_session"
    [age] = [int(one.removeprefix("Max-Age=")) for one in attributes if one.startswith("Max-Age=")]
    assert 29.9 * 86_400 < age <= 30 * 86_400
    assert attributes - {f"Max-Age={age}"} == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert answer.headers["cache-control"] == "no-store"


def test_nobody_but_a_trusted_proxy_says_https(service: Service, postgres: psycopg.Connection) -> None:
    answer = browser(service).post(PATH, json={"invite": invited(postgres).code}, headers=HTTPS)
    assert attributes_of(answer)[0] == "usage_session"


@pytest.fixture
def behind_proxy(database_url: str, redis_url: str) -> Any:
    settings = load_settings(database_url=database_url, redis_url=redis_url, trusted_proxies="127.0.0.1")
    with serving(settings) as service:
        yield service


def test_behind_a_proxy_with_tls_it_is_for_https_and_this_host_only(
    behind_proxy: Service, postgres: psycopg.Connection
) -> None:
    client = browser(behind_proxy)
    answer = client.post(PATH, json={"invite": invited(postgres).code}, headers=HTTPS)
    name, attributes = attributes_of(answer)
    assert name == "__Host-usage_session"
    assert {"Path=/", "HttpOnly", "SameSite=Strict", "Secure"} <= attributes
    assert not [one for one in attributes if one.lower().startswith("domain")]
    value = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]

    def asked(cookie: str, headers: dict[str, str]) -> int:
        return browser(behind_proxy, Cookie=cookie).get(READ_PATH, headers=headers).status_code

    assert asked(f"__Host-usage_session={value}", HTTPS) == 200
    # Another host of the domain could set this one.
    assert asked(f"usage_session={value}", HTTPS) == 401
    assert asked(f"__Host-usage_session={value}", {}) == 401
    gone = browser(behind_proxy, Cookie=f"__Host-usage_session={value}").delete(PATH, headers=HTTPS)
    assert gone.status_code == 204
    name, attributes = attributes_of(gone)
    assert name == "__Host-usage_session"
    assert {"Secure", "Max-Age=0", "Path=/"} <= attributes


@pytest.mark.parametrize("said", ["HTTPS", "https, http", "http, https", "http", "", "wss", "https;"])
def test_a_proxy_that_says_several_things_at_once_says_nothing(
    behind_proxy: Service, postgres: psycopg.Connection, said: str
) -> None:
    code = invited(postgres).code
    answer = browser(behind_proxy).post(PATH, json={"invite": code}, headers={"X-Forwarded-Proto": said})
    assert (attributes_of(answer)[0] == "__Host-usage_session") == (said == "HTTPS")


def test_of_two_cookies_none_counts(service: Service, postgres: psycopg.Connection) -> None:
    [cookie] = signed_in(service, invited(postgres).code).cookies.jar
    pair = f"{cookie.name}={cookie.value}"
    for cookies, status in (
        (pair, 200),
        (f"a=b; {pair}; c", 200),
        (f"{pair}; {pair}", 401),
        (f"{cookie.name}=x; {pair}", 401),
        (f"{cookie.name}=", 401),
        (f"x{pair}", 401),
        (f"{pair}x", 401),
    ):
        assert browser(service, Cookie=cookies).get(READ_PATH).status_code == status, cookies


def test_every_read_route_takes_it_as_it_takes_the_token(service: Service, postgres: psycopg.Connection) -> None:
    app = create_app(load_settings())
    client = signed_in(service, invited(postgres).code)
    token = browser(service, Authorization=f"Bearer {new_token(postgres, 'read', 'users')}")
    nobody = browser(service)
    tried = 0
    for path in read_paths(app):
        if path in OPEN | FILES:
            continue
        concrete = re.sub(r"\{\w+(:path)?\}", "models", path)
        assert nobody.get(concrete).status_code == 401
        expected = token.get(concrete)
        for method in ("GET", "HEAD"):
            answer = client.request(method, concrete)
            assert answer.status_code == expected.status_code, (path, answer.text)
            assert answer.headers["cache-control"] == "no-store"
        tried += 1
    assert tried > 12


def test_who_asks_so_hears_that_nobody_is_signed_in(service: Service, postgres: psycopg.Connection) -> None:
    nobody = browser(service)
    assert nobody.get(PATH).status_code == 401
    answer = nobody.get(PATH, params={"nobody": "allowed"})
    assert (answer.status_code, answer.json()) == (200, None)
    assert nobody.get(PATH, params={"nobody": "x"}).status_code == 401
    client = signed_in(service, invited(postgres).code)
    assert client.get(PATH, params={"nobody": "allowed"}).json() == client.get(PATH).json()
    assert client.get(PATH, params={"nobody": "x"}).status_code == 422
    # Something was shown, and is not good.
    for headers in ({"Cookie": "usage_session=ups_" + "A" * 43}, {"Authorization": "Bearer x"}):
        assert nobody.get(PATH, params={"nobody": "allowed"}, headers=headers).status_code == 401


def test_it_never_writes(service: Service, postgres: psycopg.Connection) -> None:
    app = create_app(load_settings())
    client = signed_in(service, invited(postgres).code)
    sender = browser(service)
    # Even one of a token that may.
    everything = new_token(postgres, "read", "ingest", "correct")
    assert sender.post(PATH, json={"token": everything}).status_code == 200
    writing = [
        path for path, method in routes_of(app) if method not in ("GET", "HEAD") and (path, "POST") not in SIGN_IN
    ]
    assert len(writing) >= 6
    for path in writing:
        for one in (client, sender):
            answer = one.post(path, json=[])
            assert answer.status_code == 403, (path, answer.text)
            assert one.post(path, json=[], headers={"Authorization": "Basic eDp5"}).status_code == 403
            # A token that is sent wins over it, also a wrong one.
            assert one.post(path, json=[], headers={"Authorization": "Bearer x"}).status_code == 401
            assert one.post(path, json=[], headers={"Authorization": "Bearer"}).status_code == 401
    assert postgres.execute("select count(*) from ops.ingest_batches").fetchone() == (0,)


def test_a_token_that_is_sent_wins_over_it(service: Service, postgres: psycopg.Connection) -> None:
    client = signed_in(service, invited(postgres, "ada").code)
    other = new_token(postgres, "read", name="other", bounds=of_team("b"))
    document = client.get(PATH, headers={"Authorization": f"Bearer {other}"}).json()
    assert (document["name"], document["signedInBy"]) == ("other", "token")
    [cookie] = client.cookies.jar
    for wrong in ("Bearer", "bearer ", "Bearer x", "Bearer upt_000000000000_" + "A" * 43):
        for method in ("GET", "DELETE"):
            headers = ("Cookie", f"{cookie.name}={cookie.value}"), ("Authorization", wrong)
            assert status_of(service, *headers, path=PATH, method=method) == 401
    # A proxy may ask for a password of its own, and pass it on.
    assert client.get(PATH, headers={"Authorization": "Basic eDp5"}).json()["name"] == "ada"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "odd"])
def test_no_page_of_elsewhere_signs_in_or_out(service: Service, postgres: psycopg.Connection, site: str) -> None:
    invitation = invited(postgres)
    headers = {"Sec-Fetch-Site": site}
    expect_problem(browser(service).post(PATH, json={"invite": invitation.code}, headers=headers), 403, "forbidden")
    client = signed_in(service, invitation.code)
    expect_problem(client.delete(PATH, headers=headers), 403, "forbidden")
    assert client.get(PATH, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert client.delete(PATH, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 204


def test_a_form_signs_nobody_in(service: Service, postgres: psycopg.Connection) -> None:
    document = json.dumps({"invite": invited(postgres).code})
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "text/plain; application/json",
    ):
        answer = browser(service).post(PATH, content=document, headers={"Content-Type": kind})
        assert answer.status_code == 415, kind
        assert "set-cookie" not in answer.headers


def test_a_page_that_may_call_does_not_act_for_who_is_signed_in(
    database_url: str, redis_url: str, postgres: psycopg.Connection
) -> None:
    origin = "https://app.example.com"
    settings = load_settings(database_url=database_url, redis_url=redis_url, allowed_origins=origin)
    with serving(settings) as service:
        client = signed_in(service, invited(postgres).code)
        answer = client.get(PATH, headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in answer.headers
        asked = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        assert client.options(PATH, headers=asked).status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{}", 422),
        (b"[]", 422),
        (b"null", 422),
        (b"{", 422),
        (b"\xff", 422),
        (b'{"invite": "x", "token": "x"}', 422),
        (b'{"invite": null}', 422),
        (b'{"invite": 1}', 422),
        (b'{"invite": "x", "name": "y"}', 422),
        (b'{"invite": "x\\u0000"}', 401),
        (b'{"invite": "\\ud800"}', 422),
        (b'{"token": "\xc3\xa9"}', 401),
        (b"[" * 4_000, 422),
        (b'{"invite": "' + b"x" * 4_096 + b'"}', 413),
    ],
)
def test_what_is_no_sign_in_is_refused(shared: Shared, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = browser(shared.service).post(PATH, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "set-cookie" not in answer.headers


@hypothesis_settings(max_examples=150)
@given(value=st.binary(max_size=300).filter(lambda value: not set(value) & set(b"\r\n\0")))
def test_no_cookie_that_was_made_up_opens_anything_or_fails(shared: Shared, value: bytes) -> None:
    for cookie in (value, b"usage_session=" + value, b"__Host-usage_session=" + value, b"usage_session=ups_" + value):
        # The server refuses controls in a head by itself.
        assert status_of(shared.service, ("Cookie", cookie)) in (400, 401)


def test_the_log_and_the_answers_have_no_secret(
    database_url: str, redis_url: str, postgres: psycopg.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "audit.jsonl"
    settings = load_settings(database_url=database_url, redis_url=redis_url, audit_log=str(path))
    used, gone = invited(postgres, "used"), invited(postgres, "gone")
    token = new_token(postgres, "read", name="mine")
    with serving(settings) as service:
        client = signed_in(service, used.code)
        other = browser(service)
        answers = [other.post(PATH, json={"invite": used.code})]
        answers += [other.post(PATH, json={"invite": gone.code[:-2] + "AA"})]
        answers += [client.post("/api/v1/ingest/requests:bulk", json=[])]
        answers += [other.post(PATH, json={"token": token[:-2] + "AA"})]
        [cookie] = client.cookies.jar
        postgres.execute("update usage.api_access_tokens set expires_at = now() where name = 'used'")
        stale = browser(service, Cookie=f"{cookie.name}={cookie.value}")
        answers += [stale.get(READ_PATH), stale.delete(PATH), stale.get(READ_PATH)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = [(line["route"], line["status"], line["reason"], line["token_id"] is not None) for line in lines]
    assert told == [
        ("POST /api/session", 410, "invitation that is over", False),
        ("POST /api/session", 401, "unknown invitation", False),
        ("POST /api/v1/ingest/requests:bulk", 403, lines[2]["reason"], False),
        ("POST /api/session", 401, "not the secret of this token", True),
        (f"GET {READ_PATH}", 401, "expired token", True),
        (f"GET {READ_PATH}", 401, "unknown or ended session", False),
    ]
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "uvicorn.access"))]
    texts = [path.read_text(), *(f"{one.getMessage()} {one.args} {one.exc_text or ''}" for one in ours)]
    texts += [answer.text for answer in answers]
    texts += [repr(used), repr(gone)]
    everything = "\n".join(texts)
    for secret in (used.code, gone.code, token, str(cookie.value)):
        assert secret not in everything
        assert secret[-30:-5] not in everything
        assert sha256(secret.encode()).hexdigest() not in everything
    stored = postgres.execute(
        "select (select string_agg(one::text, '') from usage.invitations as one)"
        " || (select coalesce(string_agg(one::text, ''), '') from usage.sessions as one)"
    ).fetchone()
    assert stored
    assert not [secret for secret in (used.code, str(cookie.value)) if secret in str(stored)]

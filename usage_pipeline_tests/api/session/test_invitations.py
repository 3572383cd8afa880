"""A link of `usage-pipeline invite` signs in once, within a day, as what was said; and `tokens revoke` takes it back."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from usage_pipeline.access.invitations import Person
from usage_pipeline.access.tokens import create_token, prefix_of, revoke_token
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.settings import Settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.api.session.people import PATH, READ_PATH, attempts, browser, invited, of_team, signed_in
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.service import Service, expect_problem, new_token


def test_a_link_signs_in_once_as_what_was_said(service: Service, run: Run) -> None:
    made = run("invite", "ada", "--team", "search", "--user", "u1", "--url", "https://usage.example.com/x/")
    address, _, code = made.stdout.strip().partition("#invite=")
    assert address == "https://usage.example.com/x/"
    assert 'for "ada"' in made.stderr
    assert code not in made.stderr
    client = signed_in(service, code)
    document = client.get(PATH).json()
    ends_at = datetime.fromisoformat(document.pop("expiresAt"))
    assert abs(ends_at - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)
    assert document == {
        "name": "ada",
        "scopes": ["read", "users"],
        "bounds": {"team": ["search"], "service": [], "user": ["u1"]},
        "signedInBy": "cookie",
    }
    assert client.head(PATH).status_code == 200
    detail = expect_problem(browser(service).post(PATH, json={"invite": code}), 410, "gone")
    assert "it was used" in detail


def test_of_many_at_the_same_moment_one_wins(service: Service, postgres: psycopg.Connection) -> None:
    for _ in range(5):
        code = invited(postgres).code
        ready = threading.Barrier(6)

        def attempt(code: str = code, ready: threading.Barrier = ready) -> int:
            client = browser(service)
            ready.wait(30)
            return client.post(PATH, json={"invite": code}).status_code

        with ThreadPoolExecutor(6) as pool:
            statuses = sorted(one.result() for one in [pool.submit(attempt) for _ in range(6)])
        assert statuses == [200, *[410] * 5]
    assert postgres.execute("select count(*) from usage.sessions").fetchone() == (5,)


def test_one_that_is_over_is_410_and_one_that_never_was_is_401(service: Service, postgres: psycopg.Connection) -> None:
    late, revoked, ended, wrong = (invited(postgres, name) for name in ("late", "revoked", "ended", "wrong"))
    postgres.execute(
        "update usage.invitations set expires_at = now() where token_id = %s",
        (late.token_id,),
    )
    revoke_token(postgres, revoked.token_prefix)
    postgres.execute("update usage.api_access_tokens set expires_at = now() where token_id = %s", (ended.token_id,))
    assert attempts(service, late.code, revoked.code, ended.code) == [410] * 3
    altered = wrong.code[:-1] + ("A" if wrong.code[-1] != "A" else "B")
    assert attempts(service, altered, "upi_" + "A" * 43, "upi_", "", "x" * 3_000, wrong.code.upper()) == [401] * 6
    assert attempts(service, wrong.code) == [200]


def test_an_invitation_is_good_for_a_day_at_most(postgres: psycopg.Connection) -> None:
    now = datetime.now(UTC)
    assert timedelta(hours=23.9) < invited(postgres).expires_at - now < timedelta(hours=24.1)
    assert invited(postgres, "short", expires_at=now + timedelta(hours=1)).expires_at == now + timedelta(hours=1)


def test_revoking_ends_the_session_with_the_next_request(
    service: Service, postgres: psycopg.Connection, run: Run
) -> None:
    invitation = invited(postgres)
    client = signed_in(service, invitation.code)
    assert client.get(READ_PATH).status_code == 200
    [listed] = json.loads(run("tokens", "list", "--json").stdout)["tokens"]
    assert (listed["name"], listed["sign_in"], listed["revoked_at"]) == ("ada", "invite", None)
    assert run("tokens", "revoke", invitation.token_prefix).returncode == 0
    expect_problem(client.get(READ_PATH), 401, "unauthorized")
    assert not list(client.cookies.jar), "the cookie is taken away"


def test_a_session_ends_when_its_time_is_over(service: Service, postgres: psycopg.Connection) -> None:
    for table in ("usage.sessions", "usage.api_access_tokens"):
        client = signed_in(service, invited(postgres).code)
        assert client.get(READ_PATH).status_code == 200
        postgres.execute(f"update {table} set expires_at = now()")
        expect_problem(client.get(READ_PATH), 401, "unauthorized")


def test_signing_out_ends_the_session_and_the_token_that_nobody_can_use_any_more(
    service: Service, postgres: psycopg.Connection
) -> None:
    client = signed_in(service, invited(postgres).code)
    [cookie] = client.cookies.jar
    answer = client.delete(PATH)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not list(client.cookies.jar)
    stolen = browser(service, Cookie=f"{cookie.name}={cookie.value}")
    expect_problem(stolen.get(READ_PATH), 401, "unauthorized")
    expect_problem(stolen.delete(PATH), 401, "unauthorized")
    assert postgres.execute("select revoked_at is not null from usage.api_access_tokens").fetchall() == [(True,)]


def test_uses_are_those_of_the_token(service: Service, postgres: psycopg.Connection, settings: Settings) -> None:
    client = signed_in(service, invited(postgres).code)
    assert [client.get(READ_PATH).status_code for _ in range(3)] == [200] * 3
    drain_once(settings, ["token"])
    assert postgres.execute("select name, usage_count from usage.api_access_tokens").fetchall() == [("ada", 3)]


def test_the_scopes_are_those_that_were_said(service: Service, postgres: psycopg.Connection, run: Run) -> None:
    made = run("invite", "eve", "--scope", "read", "--scope", "prompts", "--json")
    document = json.loads(made.stdout)
    assert set(document) == {"link", "token_id", "token_prefix", "expires_at"}
    assert document["link"].startswith("http://127.0.0.1:8000/#invite=upi_")
    client = signed_in(service, document["link"].partition("#invite=")[2])
    assert client.get(PATH).json()["scopes"] == ["prompts", "read"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ada", "--scope", "ingest"], "--scope: expected one or more of read, users, prompts"),
        (["ada", "--scope", "users"], "--scope: expected read"),
        (["ada", "--expires", "soon"], "--expires: expected"),
        (["ada", "--url", "usage.example.com"], "--url: expected"),
        (["ada", "--url", "https://x/#y"], "--url: expected"),
        (["ada", "--header", "--url", "https://x"], "came both"),
        (["ada, eve", "--header"], "NAME: expected"),
        ([" ada", "--header"], "NAME: expected"),
        (["ada", "--team", "unknown"], "--team: expected a name"),
        (["a" * 201], "NAME: expected 1 to 200 characters"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    run: Run, postgres: psycopg.Connection, arguments: list[str], expected: str
) -> None:
    made = run("invite", *arguments)
    assert made.returncode == 2
    [line] = made.stderr.strip().splitlines()
    assert expected in line
    assert postgres.execute("select count(*) from usage.api_access_tokens").fetchone() == (0,)


def test_a_person_without_read_is_no_person() -> None:
    with pytest.raises(Malformed):
        Person("ada", scopes=())


def test_a_bound_person_sees_only_what_is_theirs(service: Service, postgres: psycopg.Connection) -> None:
    client = signed_in(service, invited(postgres, bounds=of_team("mine")).code)
    expect_problem(client.get(READ_PATH), 403, "bound-token")
    assert client.get("/api/usage/models").status_code == 200


def test_a_token_signs_in_and_stays_valid_when_its_session_ends(service: Service, postgres: psycopg.Connection) -> None:
    token = new_token(postgres, "read", name="mine", bounds=of_team("a"))
    client = browser(service)
    document = client.post(PATH, json={"token": token}).json()
    assert (document["name"], document["signedInBy"]) == ("mine", "cookie")
    assert document["bounds"]["team"] == ["a"]
    [cookie] = client.cookies.jar
    assert token not in str(cookie.value)
    assert client.get(PATH).json()["signedInBy"] == "cookie"
    assert client.delete(PATH).status_code == 204
    assert client.get(PATH).status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    document = client.get(PATH, headers=headers).json()
    assert (document["signedInBy"], document["expiresAt"]) == ("token", None)
    assert client.delete(PATH, headers=headers).status_code == 204
    assert client.get(PATH, headers=headers).status_code == 200


def test_its_session_ends_with_the_token(service: Service, postgres: psycopg.Connection, run: Run) -> None:
    token = new_token(postgres, "read")
    client = browser(service)
    assert client.post(PATH, json={"token": token}).status_code == 200
    assert run("tokens", "revoke", prefix_of(token)).returncode == 0
    assert client.get(READ_PATH).status_code == 401
    assert client.post(PATH, json={"token": token}).status_code == 401


def test_tokens_that_open_nothing_sign_nobody_in(service: Service, postgres: psycopg.Connection) -> None:
    client = browser(service)
    sender = new_token(postgres, "ingest")
    expect_problem(client.post(PATH, json={"token": sender}), 403, "forbidden")
    good = new_token(postgres, "read")
    for wrong in (good[:-1] + ("A" if good[-1] != "A" else "B"), "upt_000000000000_" + "A" * 43, "x", ""):
        expect_problem(client.post(PATH, json={"token": wrong}), 401, "unauthorized")
    # An invitation is no token, and the token of a person has no secret.
    expect_problem(client.post(PATH, json={"token": invited(postgres).code}), 401, "unauthorized")
    assert not list(client.cookies.jar)


def test_a_quota_is_shared_by_all_sessions_of_a_token(
    service: Service, postgres: psycopg.Connection, redis_client: redis.Redis
) -> None:
    token = create_token(postgres, "few", ["read"], quota=4).token
    one, other = browser(service), browser(service)
    assert [client.post(PATH, json={"token": token}).status_code for client in (one, other)] == [200, 200]
    assert [client.get(READ_PATH).status_code for client in (one, other, one, other)] == [200, 200, 429, 429]
    assert one.delete(PATH).status_code == 204, "signing out needs no quota"


def test_a_token_has_a_hundred_sessions_at_most_and_the_oldest_end(
    service: Service, postgres: psycopg.Connection
) -> None:
    token = new_token(postgres, "read")
    first = browser(service)
    assert first.post(PATH, json={"token": token}).status_code == 200
    postgres.execute(
        "insert into usage.sessions (session_hash, token_id, created_at, expires_at)"
        " select encode(sha256(number::text::bytea), 'hex'), token_id, now() + interval '1 s', now() + interval '1 day'"
        " from usage.api_access_tokens, generate_series(1, 150) as number"
    )
    last = browser(service)
    assert last.post(PATH, json={"token": token}).status_code == 200
    assert postgres.execute("select count(*) from usage.sessions").fetchone() == (100,)
    assert [client.get(PATH).status_code for client in (first, last)] == [401, 200]

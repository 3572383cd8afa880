"""The HTTP service as the role usage_api: every route works, and what is not its own is refused."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from usage_pipeline.access.invitations import Person, invite, let_in_by_proxy
from usage_pipeline.access.tokens import create_token, revoke_token
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline.storage.chunks.partitions import ensure_chunks
from usage_pipeline.storage.migrations import migrate
from usage_pipeline_tests.rigs.events import archive, event
from usage_pipeline_tests.rigs.service import ARCHIVES_PATH, CORRECTIONS_PATH, EVENTS_PATH, serving
from usage_pipeline_tests.storage.roles.prepared_server import OWNER, PreparedServer
from usage_pipeline_tests.storage.roles.refusals import (
    changes_nothing_that_it_does_not_own,
    makes_partitions_of_two_days_at_most_and_of_our_tables_only,
    no_refusal_in_the_log,
    refuses,
    stores_no_time_that_no_program_reads,
    tables_of,
)

ROLE = "usage_api"


@pytest.fixture
def settings(prepared: PreparedServer, redis_url: str) -> Settings:
    # Nobody listens there: the fallback is stored.
    nobody = {"external_api_base_url": "http://127.0.0.1:9", "external_api_max_retries": 1}
    return load_settings(database_url=prepared.url(ROLE), redis_url=redis_url, **nobody)


@pytest.fixture
def owner(prepared: PreparedServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(prepared.url(OWNER), autocommit=True) as connection:
        yield connection


@pytest.fixture
def session(prepared: PreparedServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(prepared.url(ROLE), autocommit=True) as connection:
        yield connection


def posted(client: httpx.Client, path: str, *items: object) -> dict[str, int]:
    answer = client.post(path, json=list(items))
    assert answer.status_code == 200, answer.text
    counts: dict[str, int] = answer.json()
    return {name: counts[name] for name in ("inserted", "duplicates", "conflicts")}


def test_every_route_and_the_ingest_work(
    prepared: PreparedServer, settings: Settings, owner: psycopg.Connection
) -> None:
    token = create_token(owner, "all", ["read", "ingest", "correct"]).token
    with no_refusal_in_the_log(prepared), serving(settings) as service:
        client = service.with_token(token)
        mine = event()
        # Its partition is not there yet.
        old = event(event_time=(datetime.now(UTC) - timedelta(days=50)).isoformat())
        assert posted(client, EVENTS_PATH, mine, old) == {"inserted": 2, "duplicates": 0, "conflicts": 0}
        assert posted(client, EVENTS_PATH, mine) == {"inserted": 0, "duplicates": 1, "conflicts": 0}
        for _ in range(2):
            other = mine | {"model": "other"}
            assert posted(client, EVENTS_PATH, other) == {"inserted": 0, "duplicates": 0, "conflicts": 1}
        kept = archive(mine["event_id"])
        assert posted(client, ARCHIVES_PATH, kept) == {"inserted": 1, "duplicates": 0, "conflicts": 0}
        other = archive(mine["event_id"], prompt_full="other")
        assert posted(client, ARCHIVES_PATH, other) == {"inserted": 0, "duplicates": 0, "conflicts": 1}
        changed = {"action": "replace", "event": old | {"team": "b"}, "reason": "moved"}
        taken_out = {"action": "void", "event_id": mine["event_id"], "reason": "sent by a load test"}
        answer = client.post(CORRECTIONS_PATH, json=[changed, taken_out]).json()
        assert answer == {"received": 2, "corrected": 2, "already": 0, "rejected": []}
        assert posted(client, EVENTS_PATH, mine, old) == {"inserted": 0, "duplicates": 2, "conflicts": 0}
        paths = client.get("/openapi.json").json()["paths"]
        assert len(paths) > 15
        for path, methods in paths.items():
            if "get" not in methods:
                continue
            for name in ("1", "models", "models_by_tokens", "services", "services_by_tokens", "api_keys"):
                for question in ("", "?format=csv"):
                    answer = client.get(
                        path.replace("{name}", name).replace("{id}", name).replace("{post_id}", "1") + question
                    )
                    assert answer.status_code in (200, 404, 422), f"{path}: {answer.text}"
        assert client.get("/healthz").json()["database"] == "up"
        assert "usage_pipeline_" in client.get("/metrics").text
    stored = "select count(*) from analytics.usage_events"
    assert owner.execute(stored).fetchall() == [(1,)]
    assert owner.execute("select count(*) from ops.corrections").fetchall() == [(2,)]


def test_it_changes_nothing_that_it_does_not_own(session: psycopg.Connection, owner: psycopg.Connection) -> None:
    changes_nothing_that_it_does_not_own(session, tables_of(owner))
    makes_partitions_of_two_days_at_most_and_of_our_tables_only(session)
    stores_no_time_that_no_program_reads(
        session, "insert into ops.touched_windows (grain, window_start) values ('day', %s)"
    )
    for statement in (
        "update usage.api_access_tokens set scopes = '{read,ingest}'",
        "insert into usage.api_access_tokens (token_id, token_prefix, token_hash) values ('mine', 'upt_mine', 'hash')",
        "update usage.api_keys set total_requests = 0",
        "insert into usage.merchant_usage (merchant_id, date, metric_type, metric_value) values ('m', '2026-01-01', 'x', 1)",
        "update analytics.usage_events set total_tokens = 0",
        "insert into ops.sync_batches (batch_id) values ('mine')",
        "update ops.calendar set time_zone = 'Asia/Tokyo'",
        "insert into stats.daily_issue_stats (date) values ('2026-01-01')",
    ):
        refuses(session, statement)


def test_it_corrects_nothing_without_a_trace(session: psycopg.Connection, owner: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        session.execute("select ops.correct_event(gen_random_uuid(), null, null, 'me', '', '2000-01-01', 'x')")
    for statement in (
        "delete from analytics.usage_event_ids",
        "update analytics.usage_event_ids set payload_hash = ''",
        "insert into analytics.voided_events (event_id, correction_id) values (gen_random_uuid(), 1)",
        "insert into analytics.superseded_events (event_id, correction_id) values (gen_random_uuid(), 1)",
        "update ops.corrections set reason = 'none'",
        "update ops.event_conflicts set outcome = 'dismissed', decided_at = now()",
        "select other_payload from ops.event_conflicts",
    ):
        refuses(session, statement)
    for name in ("public", "usage_drain"):
        [(may,)] = owner.execute(
            "select has_function_privilege(%s, oid, 'execute') from pg_proc where proname = 'correct_event'", (name,)
        ).fetchall()
        assert not may


def test_it_reads_prompts_for_a_token_that_may_see_them_only(
    session: psycopg.Connection, owner: psycopg.Connection
) -> None:
    ensure_chunks(owner, "analytics.usage_events", [datetime.now(UTC)], 24)
    owner.execute(
        "insert into analytics.usage_events (event_id, event_time, user_id, team, service, provider, model, prompt)"
        " values (gen_random_uuid(), now(), 'u', 't', 's', 'p', 'm', 'secret')"
    )
    ids = "array(select event_id from analytics.usage_events)"
    asking = f"select * from ops.request_prompts(%s, '-infinity', 'infinity', {ids})"
    for scopes in (["read", "users"], ["read", "prompts"]):
        made = create_token(owner, "test", scopes)
        found = session.execute(asking, (made.token_id,)).fetchall()
        assert ("secret" in {prompt for _, prompt in found}) is ("prompts" in scopes)
        owner.execute("update usage.api_access_tokens set revoked_at = now() where token_id = %s", (made.token_id,))
        assert session.execute(asking, (made.token_id,)).fetchall() == []


def test_people_sign_in_and_out(prepared: PreparedServer, settings: Settings, owner: psycopg.Connection) -> None:
    token = create_token(owner, "reader", ["read"]).token
    with no_refusal_in_the_log(prepared), serving(settings) as service:
        for given in ({"token": token}, {"invite": invite(owner, Person("ada")).code}):
            with closing(httpx.Client(base_url=service.client.base_url, trust_env=False)) as browser:
                assert browser.post("/api/session", json=given).status_code == 200
                assert browser.get("/api/usage/api-keys").status_code == 200
                assert browser.delete("/api/session").status_code == 204


def test_it_signs_in_nobody_who_was_not_invited(session: psycopg.Connection, owner: psycopg.Connection) -> None:
    invite(owner, Person("hostile"))
    let_in_by_proxy(owner, Person("hostile-proxy"))
    ended = create_token(owner, "hostile-ended", ["read"])
    revoke_token(owner, ended.token_id)
    for statement in (
        "select * from usage.invitations",
        "insert into usage.invitations (invitation_hash, token_id, expires_at) values (repeat('0', 64), 'x', now())",
        "update usage.invitations set accepted_at = null",
        "insert into usage.sessions (session_hash, token_id, expires_at) values (repeat('0', 64), 'x', now())",
        "update usage.sessions set expires_at = 'infinity'",
        "delete from usage.sessions",
        "update usage.api_access_tokens set sign_in = null",
    ):
        refuses(session, statement)
    assert session.execute("select ops.accept_invitation(repeat('0', 64), repeat('1', 64))").fetchone() == (None,)
    # It knows all hashes of tokens. Those of people, and those that ended, open nothing.
    opened = session.execute(
        "select name, ops.open_session(token_id, token_hash, encode(sha256(name::bytea), 'hex'))"
        " from usage.api_access_tokens where name like 'hostile%' order by name"
    ).fetchall()
    assert opened == [("hostile", False), ("hostile-ended", False), ("hostile-proxy", False)]
    good = create_token(owner, "hostile-good", ["read"])
    attempt = "select ops.open_session(%s, %s, repeat('2', 64))"
    assert session.execute(attempt, (good.token_id, "0" * 64)).fetchone() == (False,)
    with pytest.raises(psycopg.errors.CheckViolation):
        session.execute(
            "select ops.open_session(token_id, token_hash, 'x') from usage.api_access_tokens where name = 'hostile-good'"
        )
    assert session.execute("select ops.close_session(repeat('3', 64))").fetchone() == (False,)
    for name in ("public", "usage_drain", "usage_analyst"):
        found = owner.execute(
            "select proname, has_function_privilege(%s, oid, 'execute') from pg_proc"
            " where proname in ('accept_invitation', 'open_session', 'close_session')",
            (name,),
        ).fetchall()
        assert len(found) == 3
        assert not any(may for _, may in found), name


def test_a_session_that_it_opened_lasts_thirty_days_at_most_and_no_longer_than_its_token(
    session: psycopg.Connection, owner: psycopg.Connection
) -> None:
    for name, days, most in (("never", None, 30), ("year", 365, 30), ("week", 7, 7)):
        made = create_token(owner, name, ["read"], expires_in_days=days)
        session.execute(
            "select ops.open_session(token_id, token_hash, encode(sha256(name::bytea), 'hex'))"
            " from usage.api_access_tokens where token_id = %s",
            (made.token_id,),
        )
        [(ends,)] = owner.execute(
            "select extract(epoch from expires_at - now()) / 86400 from usage.sessions where token_id = %s",
            (made.token_id,),
        ).fetchall()
        assert most - 0.1 < ends <= most


def test_it_reads_no_prompt_and_nothing_that_it_does_not_serve(session: psycopg.Connection) -> None:
    for table in (
        "analytics.message_archives",
        "raw.api_key_deltas",
        "raw.request_events",
        "app.issues",
        "app.comments",
        "ops.alerts",
        "ops.corrections",
        "usage.api_key_quotas",
        "reporting.usage_by_user",
    ):
        refuses(session, f"select * from {table}")
    for column in ("prompt", "extra", "*"):
        refuses(session, f"select {column} from analytics.usage_events")
    for column in ("raw", "source_key", "reason"):
        refuses(session, f"select {column} from ops.dead_letters")
    for statement in (
        "select other_payload from ops.event_conflicts",
        "update ops.event_conflicts set other_payload = ''",
    ):
        refuses(session, statement)


def test_what_was_taken_from_it_comes_back_with_the_next_migration(
    prepared: PreparedServer, session: psycopg.Connection, owner: psycopg.Connection
) -> None:
    owner.execute("revoke all on usage.api_keys from usage_api")
    refuses(session, "select * from usage.api_keys")
    migrate(prepared.url(OWNER))
    assert session.execute("select count(*) from usage.api_keys").fetchone() is not None

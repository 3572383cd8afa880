"""Requests of several portions, and a server too slow for all of them at once: each try gets further, all count once."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from usage_pipeline.api import storing
from usage_pipeline.api.ingest import routes
from usage_pipeline.bindings import Bounds
from usage_pipeline.settings import Settings
from usage_pipeline_tests.api.ingest.test_otlp import sent
from usage_pipeline_tests.events.formats.recorded import payload
from usage_pipeline_tests.events.otlp.spans import CHAT, request_of
from usage_pipeline_tests.rigs.service import LITELLM_PATH, Service, new_token, serving

PORTIONS = 6
# A request may take as long as four portions.
PORTION_SECONDS = 0.5
STORE_SECONDS = 2.0
# Each stores one portion at least, unless this machine is busy, and the last one finds that nothing is left.
MOST_TRIES = 5 * PORTIONS
CONTENT = {"gen_ai.input.messages": "a question", "gen_ai.output.messages": "an answer"}


@pytest.fixture
def slow_commits(postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every transaction that stores takes so long, whatever is in it; what only reads does not."""
    postgres.execute(
        f"""
        create function public.wait() returns trigger language plpgsql as $$
        begin
            if current_setting('test.waited', true) is distinct from pg_current_xact_id()::text then
                perform pg_sleep({PORTION_SECONDS}), set_config('test.waited', pg_current_xact_id()::text, true);
            end if;
            return new;
        end $$;
        grant execute on function public.wait() to public;
        create trigger slow before insert on ops.ingest_batches for each row execute function public.wait();
        """
    )
    monkeypatch.setattr(storing, "STORE_SECONDS", STORE_SECONDS)
    monkeypatch.setattr(routes, "STORE_SECONDS", STORE_SECONDS)


def litellm_batch(number: int) -> list[dict[str, Any]]:
    return [payload("success", id=f"id-{one}") for one in range(number)]


def tries(send: Callable[[], httpx.Response]) -> int:
    """How often a request is sent until it is answered, as its sender does after a 503."""
    for number in range(1, MOST_TRIES + 1):
        answer = send()
        if answer.status_code == 200:
            return number
        assert answer.status_code == 503, answer.text
    raise AssertionError(f"no answer after {MOST_TRIES} tries")


@contextmanager
def in_portions_of(size: int, settings: Settings, **others: Any) -> Iterator[Service]:
    with serving(settings.model_copy(update={"max_bulk_size": size, **others})) as service:
        yield service


BOUND_OR_NOT = pytest.mark.parametrize("bounds", [None, Bounds.of(["search"], [], [])], ids=["unbound", "bound"])


@BOUND_OR_NOT
def test_each_try_of_a_litellm_batch_gets_further(
    settings: Settings, postgres: psycopg.Connection, slow_commits: None, bounds: Bounds | None
) -> None:
    batch: list[Any] = litellm_batch(2 * PORTIONS)
    for one in batch:
        one["metadata"] = {"user_api_key_team_alias": "search"}
    with in_portions_of(2, settings) as service:
        client = service.with_token(new_token(postgres, bounds=bounds))
        assert tries(lambda: client.post(LITELLM_PATH, json=batch)) > 1
    [(rows,)] = postgres.execute("select count(*) from analytics.usage_events").fetchall()
    assert rows == 2 * PORTIONS


@BOUND_OR_NOT
@pytest.mark.parametrize("keeps_content", [False, True])
def test_each_try_of_an_otlp_request_gets_further(
    settings: Settings, postgres: psycopg.Connection, slow_commits: None, keeps_content: bool, bounds: Bounds | None
) -> None:
    request = request_of(*[{**CHAT, **CONTENT}] * (2 * PORTIONS // (1 + keeps_content)))
    with in_portions_of(2, settings, otlp_keep_content=keeps_content) as service:
        client = service.with_token(new_token(postgres, bounds=bounds))
        assert tries(lambda: sent(client, request)) > 1
    [(rows,)] = postgres.execute("select count(*) from analytics.usage_events").fetchall()
    [(archives,)] = postgres.execute("select count(*) from analytics.message_archives").fetchall()
    assert (rows, archives) == ((PORTIONS, PORTIONS) if keeps_content else (2 * PORTIONS, 0))


def test_a_portion_that_cannot_be_stored_now_keeps_no_other_from_being_stored(
    settings: Settings, postgres: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has an id of the first portion in a transaction that does not end."""
    monkeypatch.setattr(storing, "STATEMENT_SECONDS", 1)
    batch = litellm_batch(2 * PORTIONS)
    with in_portions_of(2, settings) as service, psycopg.connect(database_url) as blocker:
        client = service.with_token(new_token(postgres))
        client.post(LITELLM_PATH, json=batch[:1])
        [(event_id, at)] = postgres.execute("select event_id, event_time from analytics.usage_events").fetchall()
        postgres.execute("truncate analytics.usage_events, analytics.usage_event_ids cascade")
        blocker.execute(
            "insert into analytics.usage_event_ids (event_id, event_time, payload_hash) values (%s, %s, '')",
            (event_id, at),
        )
        assert client.post(LITELLM_PATH, json=batch).status_code == 503
        [(rows,)] = postgres.execute("select count(*) from analytics.usage_events").fetchall()
        assert rows == 2 * (PORTIONS - 1)
        blocker.rollback()
        answer = client.post(LITELLM_PATH, json=batch).json()
    assert (answer["inserted"], answer["duplicates"]) == (2, 2 * (PORTIONS - 1))


def test_what_was_stored_before_is_told_and_noted_as_duplicates(
    settings: Settings, postgres: psycopg.Connection
) -> None:
    """With what is rejected in it, a conflict, an item that another request stored, and an event that was erased."""
    batch: list[Any] = litellm_batch(8)
    batch[1] = {"id": "no time"}
    with in_portions_of(2, settings) as service:
        client = service.with_token(new_token(postgres))
        client.post(LITELLM_PATH, json=batch)
        postgres.execute(
            "update analytics.usage_event_ids set payload_hash = null where event_id = (select event_id "
            "from analytics.usage_events where external_id = 'id-2')"
        )
        batch[2]["model"], batch[5]["model"], batch[6]["id"] = "erased", "another", "new"
        answer = client.post(LITELLM_PATH, json=batch).json()
    assert {name: answer[name] for name in ("received", "inserted", "duplicates", "conflicts")} == {
        "received": 8,
        "inserted": 1,
        "duplicates": 5,
        "conflicts": 1,
    }
    assert [one["index"] for one in answer["rejected"]] == [1]
    noted = Counter[str]()
    columns = "received, inserted, duplicates, conflicts, rejected"
    for row in postgres.execute(f"select {columns} from ops.ingest_batches order by stored_at desc limit 4"):
        noted.update(dict(zip(columns.split(", "), row, strict=True)))
    assert noted == {"received": 8, "inserted": 1, "duplicates": 5, "conflicts": 1, "rejected": 1}


def test_an_event_of_others_is_never_told_as_stored_before(settings: Settings, postgres: psycopg.Connection) -> None:
    """The same ids by two senders who are bound to different teams: each has all of its own, and a repeat finds them."""
    batch = [payload("success", id=str(uuid.uuid4()), metadata={}) for _ in range(4)]
    with in_portions_of(2, settings) as service:
        answers = []
        for team in ("search", "ads"):
            client = service.with_token(new_token(postgres, name=team, bounds=Bounds.of([team], [], [])))
            answers += [client.post(LITELLM_PATH, json=batch).json() for _ in range(2)]
    assert [answer["inserted"] for answer in answers] == [4, 0, 4, 0]
    assert [answer["duplicates"] for answer in answers] == [0, 4, 0, 4]
    teams = postgres.execute("select team, count(*) from analytics.usage_events group by 1 order by 1").fetchall()
    assert teams == [("ads", 4), ("search", 4)]

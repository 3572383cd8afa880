"""A walk over every route of the app with a bound token: beside rows of others, each answers as if there were none."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
import redis
from usage_recorder import Recorder
from usage_recorder.budget import SCOPE_KINDS

from usage_pipeline.api.app import create_app
from usage_pipeline.bindings import Bounds
from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.store import set_budget
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.rankings import RANKINGS
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings, load_settings
from usage_pipeline_tests.api.bound.senders import SCOPES
from usage_pipeline_tests.api.session.people import PATH as SESSION_PATH
from usage_pipeline_tests.api.session.people import invited, signed_in
from usage_pipeline_tests.api.test_read_security import FILES, OPEN
from usage_pipeline_tests.events.formats.recorded import payload
from usage_pipeline_tests.events.otlp.spans import CHAT, TRACES_PATH, as_json, request_of
from usage_pipeline_tests.rigs.events import NOW, archive, event
from usage_pipeline_tests.rigs.service import (
    ARCHIVES_PATH,
    CLOUDEVENTS_PATH,
    CORRECTIONS_PATH,
    EVENTS_PATH,
    LITELLM_PATH,
    new_token,
    routes_of,
    serving,
)

AT = (NOW - timedelta(days=1)).replace(hour=12)
MARK = "of-others"
MINE = {"team": "mine", "service": "mine", "user_id": "mine"}
OWN = event(**MINE, event_time=AT.isoformat())
# Of others in one way each: all else is as in the sender's own.
FOREIGN = {name: event(**MINE | {name: MARK}, event_time=AT.isoformat(), model=f"model-{MARK}") for name in MINE}
TEXT_ID, SPAN = f"chatcmpl-{MARK}", request_of(CHAT, resource={"service.name": "mine", "team": "mine"})
HEADERS = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
MONTH_PATH = "/month"
EXPLORED = {f"/api/usage/{name}" for name in ("explore", "explore/dimensions", "requests", "changes")}


@dataclass(frozen=True)
class World:
    client: httpx.Client
    # Whoever asks: by the token of `client`, or signed in.
    reader: httpx.Client
    settings: Settings
    postgres: psycopg.Connection
    cache: redis.Redis


@contextmanager
def world(servers: Any, databases: Any, number: int, bounds: Bounds, *, is_signed_in: bool = False) -> Iterator[World]:
    name = databases.take()
    url, redis_url = servers.postgres.url(name), f"{servers.redis_url.rstrip('/').removesuffix('/0')}/{number}"
    nobody = {"external_api_base_url": "http://127.0.0.1:9", "external_api_max_retries": 1}
    settings = load_settings(database_url=url, redis_url=redis_url, metrics_token="m" * 40, **nobody)
    with psycopg.connect(url, autocommit=True) as postgres, redis.Redis.from_url(redis_url) as cache:
        cache.flushdb()
        with serving(settings) as service:
            client = service.with_token(new_token(postgres, *SCOPES, bounds=bounds))
            assert client.post(EVENTS_PATH, json=[OWN]).json()["inserted"] == 1
            for kind in ("team", "service", "user"):
                set_budget(postgres, budget_of(f"my-{kind}", f"{kind}=mine", "month", "5", "requests", None))
            reader = client
            if is_signed_in:
                reader = signed_in(service, invited(postgres, scopes=("read", "users", "prompts"), bounds=bounds).code)
            yield World(client, reader, settings, postgres, cache)
        cache.flushdb()
    databases.drop(name)


def roll_up(one: World) -> None:
    replace_window(one.postgres, day_window(AT.date(), one.settings.timezone), settings=one.settings)


def add_others(one: World, foreign: list[dict[str, Any]]) -> None:
    """Rows of others in whatever an answer may be made of."""
    headers = {"Authorization": f"Bearer {new_token(one.postgres, *SCOPES, name='free')}"}

    def sent(path: str, content: Any) -> None:
        answer = one.client.post(path, json=content, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json().get("rejected", []) == []

    for theirs in foreign:
        named = theirs | {"event_id": TEXT_ID, "source": f"s-{theirs['team']}-{theirs['service']}"}
        sent(EVENTS_PATH, [theirs, theirs | {"latency_ms": 1}, named, theirs | {"event_id": "x", "source": "/c"}])
        sent(ARCHIVES_PATH, [archive(theirs["event_id"], prompt_full=MARK)])
    sent(LITELLM_PATH, [payload("success")])
    sent(TRACES_PATH, json.loads(as_json(request_of(CHAT, resource={"service.name": MARK, "team": MARK}))))
    for name, scope in (*((f"b-{kind}", f"{kind}={MARK}") for kind in SCOPE_KINDS), ("b-all", "all")):
        set_budget(one.postgres, budget_of(f"{MARK}-{name}", scope, "day", "1", "requests", None))
    recorder = Recorder.connect(one.settings.redis_dsn.get_secret_value())
    for number in (1, 2):
        recorder.record_api_key(MARK, file_size=3)
        recorder.record_provider(MARK, MARK, user_id=MARK, file_size=3)
        recorder.record_merchant(MARK, MARK, value=5)
        recorder.record_token(MARK, MARK)
        if number == 1:
            drain_once(one.settings)
    one.postgres.execute(
        "insert into usage.merchant_usage (merchant_id, date, metric_type, metric_value) values (%s, current_date, 'x', 2)",
        (MARK,),
    )
    one.postgres.execute(
        "insert into stats.daily_issue_stats (date, created_count, resolved_count, comment_count)"
        " values (current_date, 1, 1, 1)"
    )
    for ranking in RANKINGS:
        entry = {"rankingDate": str(AT.date()), "rank": 1, "id": MARK, "title": MARK, "score": 1}
        one.cache.set(ranking.cache_key, json.dumps([entry]))


def cloud_event(theirs: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in theirs.items() if name not in ("event_id", "source")}
    return {"specversion": "1.0", "id": "x", "source": "/c", "type": "t", "data": data}


def bodies(theirs: dict[str, Any]) -> dict[str, list[tuple[Any, dict[str, str]]]]:
    """For each route that takes something, what names rows of others or nothing at all."""
    taken = theirs | MINE | {"model": "gpt-4o"}
    named = taken | {"event_id": TEXT_ID, "source": f"s-{theirs['team']}-{theirs['service']}"}
    never = event(event_id="00000000-0000-4000-8000-000000000001", event_time=AT.isoformat(), **MINE)
    reason = {"reason": "test"}
    litellm = payload("success") | {"end_user": "mine", "request_tags": ["service:mine"]}
    litellm["metadata"] = {**litellm["metadata"], "user_api_key_team_alias": "mine"}
    return {
        EVENTS_PATH: [
            ([theirs], HEADERS),
            ([taken, named], HEADERS),
            ([taken, named, taken | {"model": "other"}, OWN], HEADERS),
        ],
        ARCHIVES_PATH: [([archive(one["event_id"], user_id="mine", service="mine") for one in (theirs, OWN)], HEADERS)],
        CORRECTIONS_PATH: [
            (
                [
                    {"action": "void", "event_id": one["event_id"], **reason}
                    | ({"source": one["source"]} if "source" in one else {})
                    for one in (theirs, named, never)
                ],
                HEADERS,
            ),
            (
                [{"action": "replace", "event": one | {"input_tokens": 1}, **reason} for one in (taken, named, theirs)],
                HEADERS,
            ),
        ],
        LITELLM_PATH: [([litellm, payload("success")], HEADERS), ([litellm], HEADERS)],
        CLOUDEVENTS_PATH: [
            (cloud_event(one), {"Content-Type": "application/cloudevents+json"}) for one in (taken, theirs, taken)
        ],
        TRACES_PATH: [(json.loads(as_json(SPAN)), HEADERS)] * 2,
        SESSION_PATH: [
            ({"token": MARK}, HEADERS),
            ({"invite": MARK}, HEADERS),
            ({"invite": "upi_" + "A" * 43}, HEADERS),
        ],
        MONTH_PATH: [
            ("token=" + MARK, FORM),
            ("token=upi_" + "A" * 43, FORM),
            ("sign-out=1", FORM),
        ],
    }


def questions(path: str, theirs: dict[str, Any]) -> Iterator[str]:
    """What somebody may ask of a route that answers: by names of others, of nobody, and of all."""
    for name in (MARK, "nobody", "models", "1"):
        concrete = re.sub(r"\{\w+(:path)?\}", quote(name), path)
        yield concrete
        for parameter in (
            "team",
            "service",
            "user_id",
            "model",
            "provider",
            "api_key_id",
            "token_id",
            "merchant_id",
            "id",
        ):
            yield f"{concrete}?{parameter}={name}"
    for format in ("csv", "parquet"):
        yield f"{concrete}?format={format}"
    yield f"{concrete}?limit=1"
    yield f"{concrete}?model={theirs['model']}"
    if path == MONTH_PATH:
        yield f"{concrete}?month={AT:%Y-%m}"
    if path in EXPLORED:
        for dimension in ("team", "service", "user", "provider", "model", "api_key", "error_type", "tag:project"):
            for name in (MARK, "nobody"):
                yield f"{concrete}?filter.{dimension}={name}"
            yield f"{concrete}?group_by={dimension}&grain=total"
        for metric in ("distinct_users", "latency_p50_ms", "errors"):
            yield f"{concrete}?metrics={metric}&grain=month&compare=previous"
        yield f"{concrete}?grain=hour&group_by=team,service,provider,model"


def told(answer: httpx.Response) -> tuple[Any, ...]:
    """All that a client can see of an answer, without the moments that the clock gives."""
    headers = sorted((name, value) for name, value in answer.headers.items() if name != "date")
    # An hour, as bound tokens get it: a moment would be that of somebody's event.
    body = re.sub(rb'"(timestamp|expiresAt)":"[^"]+"|"asOf":"[^"]+:00:00Z"', b"", answer.content)
    # Spans that say no time happened when they came.
    today = f"{NOW:%Y-%m-%d}".encode()
    body = re.sub(rb'"eventTime":"' + today + rb'[^"]+"', b"", body)
    if str(answer.request.url.path) == "/api/usage/requests" and answer.status_code == 200:
        headers = [one for one in headers if one[0] not in ("link", "content-length")]
        body = in_any_order(body)
    return answer.request.method, str(answer.request.url.raw_path), answer.status_code, headers, body


def in_any_order(page: bytes) -> bytes:
    """Requests of one moment are in an order that the random id of a binding decides, and a place within it is in `next`: both
    are others in each world, and nobody can tell anything by them. Which of them are on a page of a few is chance, too.
    """
    found = json.loads(page.replace(b",,", b","))
    items = sorted(json.dumps(item) for item in found.pop("items"))
    has_more = found.pop("next") is not None
    return json.dumps([found, len(items) if has_more else items, has_more]).encode()


def walked(one: World, theirs: dict[str, Any]) -> list[tuple[Any, ...]]:
    found = []
    posts = bodies(theirs)
    routes = sorted(routes_of(create_app(one.settings)))
    for path in [path for path, method in routes if method == "POST"]:
        for content, headers in posts[path]:
            body = {"content": content} if isinstance(content, str) else {"json": content}
            found.append(told(one.client.post(path, **body, headers=headers)))
    roll_up(one)
    for path, method in routes:
        if method == "POST":
            continue
        for question in questions(path, theirs):
            answer = (one.client if method == "DELETE" else one.reader).request(method, question)
            assert MARK.encode() not in re.sub(rb'"instance":"[^"]*"|[?&/]of-others', b"", answer.content) or (
                answer.status_code in (404, 422) or "next" in answer.text
            ), (question, answer.text)
            if path not in OPEN | FILES | {SESSION_PATH}:
                is_by_team = path.startswith("/api/usage/models") or path in EXPLORED | {
                    MONTH_PATH,
                    "/api/usage/summary",
                    "/api/budgets",
                }
                # Of exploring, what cannot be told apart by what a token is bound to.
                expected = (200, 422, *([403] if path in EXPLORED else [])) if is_by_team else (403,)
                assert answer.status_code in expected, (question, answer.text)
            found.append(told(answer))
    return found


@pytest.mark.parametrize(
    ("members", "bounds", "is_signed_in"),
    [
        (["team"], Bounds(teams=("mine",)), False),
        (["service"], Bounds(services=("mine",)), False),
        (["user_id"], Bounds(users=("mine",)), False),
        (["team", "service", "user_id"], Bounds(teams=("mine", "ours"), services=("mine",), users=("mine",)), False),
        (["team"], Bounds(teams=("mine",)), True),
    ],
    ids=["team", "service", "user", "all", "signed in"],
)
def test_no_route_tells_of_rows_of_others(
    servers: Any, databases: Any, members: list[str], bounds: Bounds, is_signed_in: bool
) -> None:
    with ExitStack() as stack:
        alone, beside = (
            stack.enter_context(world(servers, databases, number, bounds, is_signed_in=is_signed_in))
            for number in (1, 2)
        )
        foreign = [FOREIGN[member] for member in members]
        add_others(beside, foreign)
        for theirs in foreign:
            expected, found = walked(alone, theirs), walked(beside, theirs)
            assert len(found) > 500
            for one, other in zip(expected, found, strict=True):
                assert other == one


def test_every_route_that_takes_something_is_in_the_walk(servers: Any, settings: Settings) -> None:
    taking = {path for path, method in routes_of(create_app(settings)) if method not in ("GET", "HEAD")}
    assert taking == set(bodies(FOREIGN["team"]))


def test_the_walk_finds_what_a_token_sees_that_is_not_bound(servers: Any, databases: Any) -> None:
    with ExitStack() as stack:
        alone, beside = (stack.enter_context(world(servers, databases, number, Bounds())) for number in (1, 2))
        add_others(beside, list(FOREIGN.values()))
        for one in (alone, beside):
            roll_up(one)
        paths = (
            *("/api/usage/summary", "/api/usage/models", "/api/usage/models?format=csv", "/api/usage/api-keys"),
            *("/api/usage/providers", "/api/usage/merchants", "/api/usage/tokens", f"/api/usage/api-keys/{MARK}"),
            *("/api/issues/popular", "/api/rankings/models", "/api/stats/daily"),
            *("/api/usage/explore?group_by=team", "/api/usage/explore?group_by=user&grain=total"),
            *("/api/usage/requests", "/api/usage/changes", "/api/budgets", MONTH_PATH),
        )
        same = [path for path in paths if told(beside.client.get(path)) == told(alone.client.get(path))]
        assert same == []

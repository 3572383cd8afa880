"""What the read side gives away, and to whom: no token no answer, hostile input no failure, and no token in a log."""

import hmac
import json
import logging
import re
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from usage_pipeline.access import tokens
from usage_pipeline.access.tokens import AccessToken, prefix_of
from usage_pipeline.api.answers.negotiation import prefers_html
from usage_pipeline.api.app import create_app
from usage_pipeline.api.connections.refusals import MAX_QUERY_BYTES
from usage_pipeline.settings import SettingsError, load_settings
from usage_pipeline_tests.events.otlp.spans import TRACES_PATH
from usage_pipeline_tests.rigs.service import Shared, new_token, routes_of, serving

# What needs no token: contracts §3, and the documents and pages that tell of the service and nothing of its data.
OPEN = {"/", "/healthz", "/metrics", "/api/external/posts/{id}", "/openapi.json", "/docs"}
FILES = {"/dashboard/{version}/{name}", "/docs/{version}/{name}"}
# Who signs in shows a token or an invitation in the body.
SIGN_IN = {("/api/session", "POST"), ("/month", "POST")}
HOSTILE = [
    "'; drop table usage.api_keys; --",
    "%(most)s",
    "\x00",
    "a\x00b",
    "\ud83d",
    "日本\u202e",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "9" * 5_000,
    "",
    "-1",
    "1e309",
    "\r\nX-Injected: 1",
]


def read_paths(app: Any) -> list[str]:
    return sorted({path for path, method in routes_of(app) if method == "GET" and path.startswith("/api/")})


def test_every_route_but_the_open_ones_refuses_who_has_no_token(shared: Shared) -> None:
    app = create_app(shared.settings)
    closed = [
        (path, method) for path, method in routes_of(app) if path not in OPEN | FILES and (path, method) not in SIGN_IN
    ]
    assert len(closed) >= 18
    known = {path for path, _ in routes_of(app)}
    assert set(app.openapi()["paths"]) <= {path.replace(":path}", "}") for path in known}, "no route is overlooked"
    for path, method in closed:
        concrete = re.sub(r"\{\w+(:path)?\}", "x", path)
        for headers in ({}, {"Authorization": "Bearer upt_000000000000_" + "A" * 43}, {"Authorization": "Basic eDp5"}):
            answer = shared.service.client.request(method, concrete, headers={"Authorization": "", **headers})
            assert answer.status_code == 401, (path, method)
            if path == TRACES_PATH:
                # By the protocol of OpenTelemetry: google.rpc.Status.
                assert answer.json()["code"] == 16
            elif method != "HEAD":
                assert answer.json()["type"] == "urn:usage-pipeline:unauthorized"


def test_a_token_that_may_only_ingest_reads_nothing(shared: Shared) -> None:
    headers = {"Authorization": f"Bearer {new_token(shared.postgres, 'ingest')}"}
    for path in read_paths(create_app(shared.settings)):
        if path not in OPEN:
            answer = shared.service.client.get(re.sub(r"\{\w+(:path)?\}", "x", path), headers=headers)
            assert answer.status_code == 403, path


def parameters_of(document: dict[str, Any], path: str) -> list[str]:
    operation = document["paths"][path.replace(":path}", "}")]["get"]
    return [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]


def test_hostile_input_in_every_parameter_is_refused_or_answered_and_never_fails(shared: Shared) -> None:
    app = create_app(shared.settings)
    document = app.openapi()
    tried = 0
    before = shared.postgres.execute("select count(*) from information_schema.tables").fetchone()
    for path in read_paths(app):
        if path in OPEN:
            continue
        for text in HOSTILE:
            encoded = quote(text.encode("utf-8", "surrogatepass"), safe="")
            asked = [re.sub(r"\{\w+(:path)?\}", encoded, path)] if "{" in path else []
            concrete = re.sub(r"\{\w+(:path)?\}", "models", path)
            asked += [f"{concrete}?{name}={encoded}" for name in (*parameters_of(document, path), "unknown")]
            asked.append(f"{concrete}?{encoded}={encoded}")
            for one in asked:
                answer = shared.client.get(one)
                tried += 1
                is_long = len(one.partition("?")[2]) > MAX_QUERY_BYTES
                # 403: users and tags, which this token may not see.
                assert answer.status_code in ((414,) if is_long else (200, 403, 404, 422)), (one, answer.text)
                assert "x-injected" not in answer.headers
                if answer.status_code != 200:
                    assert answer.headers["content-type"] == "application/problem+json", one
                    assert len(answer.text) < 12_000
    assert tried > 700
    assert shared.postgres.execute("select count(*) from information_schema.tables").fetchone() == before


def test_the_hash_is_compared_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def noting(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Noting:
        compare_digest = staticmethod(noting)

    right = "upt_0123456789ab_" + "A" * 43
    stored = sha256(right.encode()).hexdigest()
    token = AccessToken("id", "upt_0123456789ab", stored, "", (), None, None, None, None)
    monkeypatch.setattr(tokens, "hmac", Noting)
    wrong = [right[:-1] + "B", "upt_0123456789ab_" + "B" * 43, right.upper()]
    assert [token.is_hash_of(text) for text in (right, *wrong)] == [True, False, False, False]
    # Whatever is presented, two digests of one length meet there, and nothing before them decides.
    assert [pair[0] for pair in compared] == [stored] * 4
    assert {len(text) for pair in compared for text in pair} == {64}


def test_no_token_comes_into_a_log(shared: Shared, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good, other = shared.token, new_token(shared.postgres, "ingest")
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    client = shared.service.client
    for token in (good, other, wrong, "upt_short", "x" * 300):
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("/api/usage/api-keys", "/api/issues/popular", "/api/usage/api-keys?limit=x", "/nowhere", "/"):
            client.get(path, headers=headers)
            client.get(path, headers={"Authorization": ""}, params={"token": token, "access_token": token})
            client.get(path, headers=headers, params={"api_key_id": token})
        client.post("/api/v1/ingest/requests:bulk", content=b"x", headers=headers)
    # httpx logs the URLs that this test puts tokens into. The access log of uvicorn is off, but pytest put its handler there;
    # service/test_routes.py looks at what a process of its own writes.
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "uvicorn.access"))]
    text = "\n".join(f"{record.getMessage()} {record.args} {record.exc_text or ''}" for record in ours)
    for token in (good, other, wrong, sha256(good.encode()).hexdigest()):
        assert token not in text
        assert token.rpartition("_")[2][:20] not in text


def test_no_answer_repeats_the_token(shared: Shared) -> None:
    for path in ("/api/usage/tokens?limit=1000", "/api/usage/summary", "/nowhere", "/api/usage/api-keys?limit=x"):
        answer = shared.client.get(path)
        assert shared.token not in answer.text
        assert str(prefix_of(shared.token)) not in answer.text


def test_other_origins_are_closed_out_by_default(shared: Shared) -> None:
    asks = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET"}
    preflight = shared.client.options("/api/usage/summary", headers=asks)
    answer = shared.client.get("/api/usage/summary", headers={"Origin": "https://app.example.com"})
    for one in (preflight, answer):
        assert not [name for name in one.headers if name.startswith("access-control")]


def test_named_origins_are_let_in_and_no_others(shared: Shared) -> None:
    settings = shared.settings.model_copy(update={"allowed_origins": "https://app.example.com, http://localhost:8080"})
    with serving(settings) as service:
        client = service.with_token(shared.token)
        for origin, is_let_in in (
            ("https://app.example.com", True),
            ("http://localhost:8080", True),
            ("https://app.example.com.evil.org", False),
            ("http://app.example.com", False),
            ("null", False),
        ):
            asks = {
                "Origin": origin,
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "authorization",
            }
            answers = [
                client.options("/api/issues/popular", headers=asks),
                client.get("/api/issues/popular", headers={"Origin": origin}),
            ]
            for answer in answers:
                assert answer.headers.get("access-control-allow-origin") == (origin if is_let_in else None)
                assert "access-control-allow-credentials" not in answer.headers
        assert (
            "X-Cache"
            in client.get("/", headers={"Origin": "http://localhost:8080"}).headers["access-control-expose-headers"]
        )


@pytest.mark.parametrize(
    "listed", ["*", "https://a.example, *", "app.example.com", "https://a.example/", "https://a b", "null"]
)
def test_what_is_no_exact_origin_is_a_wrong_setting(listed: str) -> None:
    with pytest.raises(SettingsError, match="ALLOWED_ORIGINS: expected"):
        load_settings(allowed_origins=listed)


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("application/json, text/html;q=0.5", False),
        ("text/html;q=0.5, application/json;q=0.4", True),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        ("text/html;q=x", False),
        ("text/html;q=0", False),
        ("," * 2_048 + "text/html", False),
    ],
)
def test_browsers_get_the_dashboard_and_programs_the_links(shared: Shared, accept: str, is_html: bool) -> None:
    assert prefers_html(accept) is is_html
    answer = shared.service.client.get("/", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/html" if is_html else "application/json")
    assert "Accept" in re.split(", *", answer.headers["vary"])
    if not is_html:
        assert answer.json()["name"] == "usage_pipeline"


def test_openapi_has_every_read_route_with_examples_and_problems(shared: Shared) -> None:
    document = shared.service.client.get("/openapi.json").json()
    operations = {
        path: item["get"] for path, item in document["paths"].items() if path.startswith("/api/") and "get" in item
    }
    assert len(operations) >= 18
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    for path, operation in operations.items():
        if path in OPEN:
            continue
        assert operation["security"] == [{"HTTPBearer": []}], path
        content = operation["responses"]["200"]["content"]["application/json"]
        assert content["example"], path
        assert operation["summary"], path
        assert {"401", "403", "422", "429", "500", "503"} <= set(operation["responses"]), path
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter)
            assert parameter["name"] == "after" or "example" in json.dumps(parameter), (path, parameter)


def test_the_examples_of_the_documentation_are_what_is_asked_for(shared: Shared) -> None:
    document = shared.service.client.get("/openapi.json").json()
    for path, item in document["paths"].items():
        if "get" not in item or path in OPEN or not path.startswith("/api/"):
            continue
        given = {
            one["name"]: one["example"]
            for one in item["get"].get("parameters", [])
            if one["in"] == "query" and "example" in one
        }
        answer = shared.client.get(re.sub(r"\{\w+\}", "models", path), params=given)
        assert answer.status_code in (200, 404), (path, answer.text)
        example = item["get"]["responses"]["200"]["content"]["application/json"]["example"]
        if isinstance(example, dict) and answer.status_code == 200:
            assert set(answer.json()) == set(example), path


def test_a_hit_and_a_problem_are_json_as_their_type_says(shared: Shared) -> None:
    for _ in range(2):
        answer: httpx.Response = shared.client.get("/api/rankings/models")
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(answer.content) == []

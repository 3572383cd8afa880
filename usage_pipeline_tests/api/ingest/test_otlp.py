"""OTLP over HTTP: the real SDK and its exporters against the real service, and what others may send."""

import gzip
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import psycopg
import pytest
import requests
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter as JsonExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.otlp.spans import CHAT, PROTOBUF, TRACES_PATH, encoded, provider_of, request_of
from usage_pipeline_tests.rigs.service import EVENTS_PATH, Service, Shared, new_token, serving

EXPORTERS: Mapping[str, Callable[..., Any]] = {
    "protobuf": lambda **given: OTLPSpanExporter(compression=Compression.NoCompression, **given),
    "protobuf and gzip": lambda **given: OTLPSpanExporter(compression=Compression.Gzip, **given),
    "json": JsonExporter,
}
ENCODINGS = pytest.mark.parametrize("is_json", [False, True], ids=["protobuf", "json"])
JSON = "application/json"


def exporter_to(kind: str, url: str, token: str) -> Any:
    session = requests.Session()
    session.trust_env = False
    given: dict[str, Any] = {"endpoint": f"{url}{TRACES_PATH}", "headers": {"authorization": f"Bearer {token}"}}
    return (
        EXPORTERS[kind](timeout=30, **given)
        if kind == "json"
        else EXPORTERS[kind](timeout=30, session=session, **given)
    )


def url_of(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"


def stored(postgres: psycopg.Connection, columns: str = "external_id") -> list[tuple[Any, ...]]:
    return postgres.execute(f"select {columns} from analytics.usage_events order by event_time, external_id").fetchall()


def sent(client: httpx.Client, request: ExportTraceServiceRequest, is_json: bool = False) -> httpx.Response:
    headers = {"Content-Type": JSON if is_json else PROTOBUF}
    return client.post(TRACES_PATH, content=encoded(request, is_json), headers=headers)


def partial_success(response: httpx.Response, is_json: bool) -> tuple[int, str]:
    """The count and the message of an answer; 0 and none where all was taken."""
    assert response.status_code == 200, response.text
    if is_json:
        assert response.headers["content-type"] == JSON
        found = response.json().get("partialSuccess", {})
        return int(found.get("rejectedSpans", "0")), found.get("errorMessage", "")
    assert response.headers["content-type"] == PROTOBUF
    answer = ExportTraceServiceResponse.FromString(response.content)
    return answer.partial_success.rejected_spans, answer.partial_success.error_message


@pytest.mark.parametrize("kind", EXPORTERS)
def test_spans_of_the_sdk_are_stored_by_each_exporter(
    service: Service, token: str, postgres: psycopg.Connection, kind: str
) -> None:
    with provider_of(exporter_to(kind, url_of(service), token)) as provider:
        span = provider.get_tracer("test").start_span(
            "chat gpt-4o", attributes={**CHAT, "gen_ai.usage.cache_read.input_tokens": 500}
        )
        span.end()
    context = span.get_span_context()
    assert context is not None
    columns = (
        "external_id, source, team, service, user_id, provider, model, input_tokens, output_tokens, cache_read_tokens"
    )
    name = f"{trace.format_trace_id(context.trace_id)}/{trace.format_span_id(context.span_id)}"
    assert stored(postgres, columns) == [
        (name, "otlp", "search", "assistant", "user-1", "openai", "gpt-4o-2024-08-06", 900, 120, 500)
    ]


@pytest.mark.parametrize("kind", EXPORTERS)
def test_an_agent_counts_as_the_sum_of_its_calls(
    service: Service, token: str, postgres: psycopg.Connection, kind: str
) -> None:
    agent = {**CHAT, "gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 4_500}
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
    with provider_of(exporter_to(kind, url_of(service), token)) as provider:
        tracer = provider.get_tracer("test")
        with (
            tracer.start_as_current_span("workflow", attributes={"gen_ai.operation.name": "invoke_workflow", **agent}),
            tracer.start_as_current_span("agent", attributes=agent),
        ):
            for _ in range(5):
                with tracer.start_as_current_span("chat", attributes=CHAT), tracer.start_as_current_span("POST"):
                    pass
                with tracer.start_as_current_span("tool", attributes=tool):
                    pass
    assert stored(postgres, "input_tokens") == [(900,)] * 5


@ENCODINGS
def test_a_span_counts_once_however_often_it_is_sent(
    ingest_client: httpx.Client, postgres: psycopg.Connection, is_json: bool
) -> None:
    request = request_of(CHAT, CHAT, CHAT)
    for encoding in (is_json, is_json, not is_json):
        assert partial_success(sent(ingest_client, request, encoding), encoding) == (0, "")
    assert len(stored(postgres)) == 3
    assert postgres.execute("select count(*) from ops.event_conflicts").fetchall() == [(0,)]


@pytest.mark.parametrize("kind", EXPORTERS)
def test_what_is_turned_away_with_503_comes_again_and_counts_once(
    settings: Settings, postgres: psycopg.Connection, kind: str
) -> None:
    token = new_token(postgres)
    with serving(settings.model_copy(update={"db_pool_size": 1})) as service:
        # As many requests as there are places, whose bodies do not come.
        waiting = [service.raw("Content-Length: 10", token=token) for _ in range(6)]
        url = url_of(service)
        with closing(httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"})) as client:
            while (
                answer := client.post(f"{url}{TRACES_PATH}", content=b"", headers={"Content-Type": PROTOBUF})
            ).status_code == 200:
                pass
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROTOBUF)
        assert int(answer.headers["retry-after"]) > 0
        assert "send it again" in Status.FromString(answer.content).message
        with provider_of(exporter_to(kind, url, token)) as provider:
            ends = threading.Thread(target=provider.get_tracer("test").start_span("chat", attributes=CHAT).end)
            ends.start()
            while ends.is_alive():
                for one in waiting if stored_refusals(service) else ():
                    one.close()
                ends.join(0.05)
    assert len(stored(postgres)) == 1


def stored_refusals(service: Service) -> bool:
    """Whether a second request was turned away: the one of the exporter."""
    text = service.client.get("/metrics").text
    counted = [line for line in text.splitlines() if 'route="/v1/traces"' in line and 'status="5xx"' in line]
    return any(float(line.rpartition(" ")[2]) >= 2 for line in counted if "requests_total" in line)


@contextmanager
def losing_first_answers(service: Service, number: int) -> Iterator[str]:
    """A proxy that passes requests on, and answers 503 to the first ones all the same."""
    left = [number]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = service.client.post(self.path, content=body, headers=dict(self.headers))
            assert answer.status_code == 200
            lost, left[0] = left[0] > 0, left[0] - 1
            self.send_response(503 if lost else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("kind", EXPORTERS)
def test_a_batch_whose_answer_is_lost_is_sent_again_and_counts_once(
    service: Service, token: str, postgres: psycopg.Connection, kind: str
) -> None:
    with losing_first_answers(service, 1) as url:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter_to(kind, url, token)))
        for _ in range(20):
            provider.get_tracer("test").start_span("chat", attributes=CHAT).end()
        provider.shutdown()
    assert len(stored(postgres)) == 20
    assert postgres.execute("select sum(duplicates)::int from ops.ingest_batches").fetchall() == [(20,)]


@ENCODINGS
def test_a_span_that_breaks_a_rule_is_told_and_the_others_are_stored(
    ingest_client: httpx.Client, postgres: psycopg.Connection, is_json: bool
) -> None:
    over = {**CHAT, "gen_ai.usage.cache_read.input_tokens": 901}
    text = {**CHAT, "gen_ai.usage.input_tokens": "many"}
    request = request_of(CHAT, over, text, CHAT, {"plain": 1})
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[3].start_time_unix_nano = 0
    spans[3].end_time_unix_nano = 0
    number, message = partial_success(sent(ingest_client, request, is_json), is_json)
    assert number == 3
    assert (
        f"span {spans[1].trace_id.hex()}/{spans[1].span_id.hex()}: usage.cache_read_tokens: expected at most" in message
    )
    assert "input_tokens" in message
    assert "event_time" in message
    assert len(stored(postgres)) == 1


def test_a_reason_is_told_whole_once_and_without_advice_to_senders_of_events(
    ingest_client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    over, less = {**CHAT, "gen_ai.usage.cache_read.input_tokens": 901}, {**CHAT, "gen_ai.usage.total_tokens": 3}
    request = request_of(over, over, over, less)
    spans = request.resource_spans[0].scope_spans[0].spans
    first, last = (f"{span.trace_id.hex()}/{span.span_id.hex()}" for span in (spans[0], spans[3]))
    expected = (
        f"span {first} and 2 more: usage.cache_read_tokens: expected at most input_tokens = 900, of which it is a part, came "
        "901. Anthropic's own input_tokens leaves cached tokens out, which belong to input_tokens here; "
        f"span {last}: total_tokens: expected at least input_tokens + output_tokens = 1020, came 3"
    )
    with caplog.at_level(logging.WARNING):
        assert partial_success(sent(ingest_client, request), is_json=False) == (4, expected)
    assert f"OTLP: 4 spans rejected. {expected}" in [record.getMessage() for record in caplog.records]


@ENCODINGS
def test_tokens_that_do_not_count_are_told_without_a_refusal(ingest_client: httpx.Client, is_json: bool) -> None:
    request = request_of({"gen_ai.usage.input_tokens": 5})
    number, message = partial_success(sent(ingest_client, request, is_json), is_json)
    assert number == 0
    assert "1 spans have tokens and do not count" in message


@ENCODINGS
def test_a_span_that_comes_again_with_other_content_is_kept_apart_and_told(
    ingest_client: httpx.Client, postgres: psycopg.Connection, is_json: bool
) -> None:
    request = request_of(CHAT)
    assert partial_success(sent(ingest_client, request, is_json), is_json) == (0, "")
    [span] = request.resource_spans[0].scope_spans[0].spans
    span.attributes.add(key="gen_ai.usage.prompt_tokens").value.int_value = 5
    assert partial_success(sent(ingest_client, request, is_json), is_json) == (0, ""), "nobody reads the older name"
    span.attributes.add(key="team").value.string_value = "other"
    number, message = partial_success(sent(ingest_client, request, is_json), is_json)
    assert (number, message) == (0, "1 spans came before with other content; these are kept apart and do not count")
    assert stored(postgres, "team") == [("search",)]


@ENCODINGS
def test_nothing_and_spans_of_others_are_taken(
    ingest_client: httpx.Client, postgres: psycopg.Connection, is_json: bool
) -> None:
    for request in (ExportTraceServiceRequest(), request_of({"http.request.method": "GET"})):
        response = sent(ingest_client, request, is_json)
        assert response.content == (b"{}" if is_json else b"")
        assert partial_success(response, is_json) == (0, "")
    assert stored(postgres) == []


@ENCODINGS
def test_more_calls_than_a_bulk_request_has_are_stored_in_batches(
    settings: Settings, postgres: psycopg.Connection, is_json: bool
) -> None:
    with serving(settings.model_copy(update={"max_bulk_size": 10})) as service:
        client = service.with_token(new_token(postgres))
        assert partial_success(sent(client, request_of(*[CHAT] * 95), is_json), is_json) == (0, "")
    assert len(stored(postgres)) == 95
    assert postgres.execute("select count(*) from ops.ingest_batches").fetchall() == [(10,)]


@ENCODINGS
def test_content_is_stored_only_where_it_is_asked_for(
    settings: Settings, postgres: psycopg.Connection, is_json: bool
) -> None:
    request = request_of(
        {**CHAT, "gen_ai.input.messages": "secret question", "gen_ai.output.messages": "secret answer"}
    )
    everything = "select count(*) from analytics.usage_events e where e::text like '%secret%'"
    archives = "select prompt_full, response_full from analytics.message_archives"
    with serving(settings) as service:
        partial_success(sent(service.with_token(new_token(postgres)), request, is_json), is_json)
    assert postgres.execute(everything).fetchall() == [(0,)]
    assert postgres.execute(archives).fetchall() == []
    with serving(settings.model_copy(update={"otlp_keep_content": True})) as service:
        for _ in range(2):
            answer = sent(service.with_token(new_token(postgres, name="other")), request, is_json)
            assert partial_success(answer, is_json) == (0, "")
    assert postgres.execute(everything).fetchall() == [(0,)]
    assert postgres.execute(archives).fetchall() == [("secret question", "secret answer")]
    assert len(stored(postgres)) == 1


def expect_status(response: httpx.Response, status: int, code: int, media_type: str) -> str:
    """The message of a google.rpc.Status with this code, in this encoding."""
    assert (response.status_code, response.headers["content-type"]) == (status, media_type), response.content
    if media_type == JSON:
        found = response.json()
        assert found["code"] == code
        return str(found["message"])
    decoded = Status.FromString(response.content)
    assert decoded.code == code
    return decoded.message


@pytest.mark.parametrize("media_type", [PROTOBUF, JSON])
def test_a_refusal_is_a_status_in_the_encoding_of_the_request(
    service: Service, postgres: psycopg.Connection, token: str, media_type: str
) -> None:
    client, headers = service.client, {"Content-Type": media_type}
    assert "came none" in expect_status(client.post(TRACES_PATH, content=b"", headers=headers), 401, 16, media_type)
    client.headers["Authorization"] = f"Bearer {new_token(postgres, 'read', name='reader')}"
    assert "scope ingest" in expect_status(client.post(TRACES_PATH, content=b"", headers=headers), 403, 7, media_type)
    service.with_token(token)
    answer = client.post(TRACES_PATH, content=b"\xff\xff", headers=headers)
    assert "body: expected" in expect_status(answer, 400, 3, media_type)
    answer = client.post(TRACES_PATH, content=b"no", headers={**headers, "Content-Encoding": "gzip"})
    assert "gzip" in expect_status(answer, 400, 3, media_type)
    answer = client.post(TRACES_PATH, content=b"", headers={**headers, "Content-Encoding": "br"})
    assert "gzip" in expect_status(answer, 415, 3, media_type)
    answer = client.post(
        TRACES_PATH, content=gzip.compress(bytes(2**28)), headers={**headers, "Content-Encoding": "gzip"}
    )
    expect_status(answer, 413, 11, media_type)


def test_another_type_is_refused_with_those_that_are_taken(ingest_client: httpx.Client) -> None:
    answer = ingest_client.post(TRACES_PATH, content=b"", headers={"Content-Type": "text/plain"})
    assert PROTOBUF in expect_status(answer, 415, 3, JSON)


def test_a_body_that_does_not_come_in_time_may_be_sent_again(settings: Settings, postgres: psycopg.Connection) -> None:
    with serving(settings.model_copy(update={"body_timeout_seconds": 0.2})) as service:
        head = "Content-Length: 10"
        with closing(service.raw(head, token=new_token(postgres), path=TRACES_PATH)) as connection:
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in answer.lower()


@pytest.fixture(scope="module")
def fuzzed(shared: Shared) -> httpx.Client:
    return shared.service.with_token(new_token(shared.postgres, name="fuzz"))


_SEEDS = [encoded(request_of(CHAT, {"plain": [1, 2]}), is_json) for is_json in (False, True)]


@st.composite
def changed(draw: st.DrawFn) -> tuple[bool, bytes]:
    """A request in which some places are cut out, doubled, or replaced."""
    is_json = draw(st.booleans())
    data = _SEEDS[is_json]
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(data)))
        last = min(len(data), first + draw(st.integers(0, 30)))
        put = draw(
            st.one_of(
                st.binary(max_size=6), st.just(data[first:last] * 2), st.sampled_from([b'"', b"{", b"[", b"null"])
            )
        )
        data = data[:first] + put + data[last:]
    return is_json, data


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(changed(), st.tuples(st.booleans(), st.binary(max_size=200))))
@example((False, b"")).via("nothing is a request without spans")
@example((True, b""))
@example((True, b"null"))
def test_any_bytes_get_an_answer_of_the_protocol(fuzzed: httpx.Client, body: tuple[bool, bytes]) -> None:
    is_json, data = body
    response = fuzzed.post(TRACES_PATH, content=data, headers={"Content-Type": JSON if is_json else PROTOBUF})
    if response.status_code == 200:
        partial_success(response, is_json)
    else:
        expect_status(response, 400, 3, JSON if is_json else PROTOBUF)


def test_the_bulk_route_takes_a_correction_of_a_span(ingest_client: httpx.Client, postgres: psycopg.Connection) -> None:
    """The id of a span is that of contracts §8.1: whoever names the source otlp means the same event."""
    sent(ingest_client, request_of(CHAT))
    [(name, at)] = stored(postgres, "external_id, event_time")
    event = {
        "event_id": name,
        "source": "otlp",
        "event_time": at.isoformat(),
        "user_id": "other",
        **dict.fromkeys(("team", "service", "provider", "model"), "x"),
    }
    answer = ingest_client.post(EVENTS_PATH, json=[event]).json()
    assert (answer["inserted"], answer["conflicts"]) == (0, 1)

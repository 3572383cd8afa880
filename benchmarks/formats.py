"""How many usage events a second get in over HTTP in the formats of other programs, against plain ones on the bulk route.

What LiteLLM sends is as its generic API callback sends it: 13 KB an event, not compressed. Spans are as the exporters of
OpenTelemetry send them: with gzip. The same requests as usage events, with all that LiteLLM and the spans tell of them, go to
the bulk route as well. Everything is measured in turns within one run, on embedded servers in a temporary folder.
Run: python -m benchmarks.formats [--events N] [--repeats N] [--workers N] [--clients N] [--json]
"""

import argparse
import copy
import gzip
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import httpx
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.table import Table

from benchmarks.harness import (
    Rates,
    Timed,
    add_repeats,
    measure_in_turns,
    medians,
    own_servers,
    paired_ratio,
    parsed,
    running_service,
    show,
    table_of,
)
from benchmarks.ingest import batch
from usage_pipeline.access.tokens import create_token
from usage_pipeline.events.formats import litellm
from usage_pipeline.events.otlp.document import TraceRequest
from usage_pipeline.events.otlp.mapping import Rules
from usage_pipeline.local.servers.ports import LOOPBACK
from usage_pipeline.settings import Settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline_tests.events.formats import recorded
from usage_pipeline_tests.events.otlp.spans import as_json

# What OpenTelemetry's exporters and LiteLLM send at once.
PER_REQUEST = 512
# So long is a conversation that LiteLLM logs, with what was asked and what was answered.
_WORDS = 1_600
_PLAIN = "bulk, plain events"
_BULK = "/api/v1/ingest/requests:bulk"
_JSON, _PROTOBUF = "application/json", "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class Post:
    """A request as a client sends it."""

    path: str
    body: bytes
    media_type: str
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the repeats, in events a second; ratios to plain events are paired within a repeat."""

    events: int
    repeats: int
    clients: int
    workers: int
    bytes_an_event: dict[str, int]
    per_second: dict[str, float]
    to_plain: dict[str, float]


def _packed(path: str, body: bytes, media_type: str = _JSON) -> Post:
    return Post(path, gzip.compress(body, 6), media_type, is_packed=True)


def _plain(chance: Random) -> Post:
    return _packed(_BULK, batch(chance, size=PER_REQUEST).document)


def _payloads(chance: Random) -> list[dict[str, Any]]:
    """What the real LiteLLM logged of usual requests, each under an id of its own."""
    usual = [recorded.payload(name) for name in ("success", "stream", "cached_tokens", "cache_writes")]
    now = time.time()
    found = []
    for number in range(PER_REQUEST):
        payload = copy.deepcopy(usual[number % len(usual)])
        took = payload["endTime"] - payload["startTime"]
        payload |= {"id": f"chatcmpl-{chance.getrandbits(128):032x}", "startTime": now - took, "endTime": now}
        payload["messages"] = [{"role": "user", "content": "word " * _WORDS}]
        found.append(payload)
    return found


def _litellm(chance: Random) -> Post:
    return Post("/api/v1/ingest/litellm", json.dumps(_payloads(chance)).encode(), _JSON)


def _of_litellm(chance: Random) -> Post:
    events = [litellm.event_of(json.dumps(payload).encode()) for payload in _payloads(chance)]
    return _packed(_BULK, b"[" + b",".join(events) + b"]")


def _spans(chance: Random) -> ExportTraceServiceRequest:
    """Calls of models as OpenTelemetry's instrumentations write them, without prompts."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    resource = {
        "service.name": "chat",
        "service.namespace": "search",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": "1.40.0",
    }
    _put(group.resource.attributes, resource)
    scope = group.scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.openai_v2"
    now = time.time_ns()
    for _ in range(PER_REQUEST):
        span = scope.spans.add()
        span.trace_id = chance.randbytes(16)
        span.span_id = chance.randbytes(8)
        span.name = "chat gpt-4o"
        span.kind = span.SPAN_KIND_CLIENT
        span.start_time_unix_nano = now - chance.randrange(10**9)
        span.end_time_unix_nano = now
        entered = chance.randrange(10, 8_000)
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024-08-06",
            "gen_ai.response.id": f"chatcmpl-{UUID(int=chance.getrandbits(128))}",
            "gen_ai.usage.input_tokens": entered,
            "gen_ai.usage.output_tokens": chance.randrange(1, 1_000),
            "gen_ai.usage.cache_read.input_tokens": entered // 2,
            "gen_ai.request.max_tokens": 1_000,
            "gen_ai.request.temperature": 0.7,
            "server.address": "api.openai.com",
            "user.id": f"user-{chance.randrange(5_000)}",
        }
        _put(span.attributes, attributes)
    return request


def _put(target: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        attribute = target.add(key=name)
        kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
        setattr(attribute.value, kind, value)


def _protobuf(chance: Random) -> Post:
    return _packed("/v1/traces", _spans(chance).SerializeToString(), _PROTOBUF)


def _otlp_json(chance: Random) -> Post:
    return _packed("/v1/traces", as_json(_spans(chance)))


def _of_spans(chance: Random, *, rules: Rules) -> Post:
    document = _spans(chance).SerializeToString()
    traces = TraceRequest(document, is_json=False, rules=rules, deadline=time.monotonic() + 60)
    events = [bytes(event) for events in traces.batches(PER_REQUEST) for event in events]
    return _packed(_BULK, b"[" + b",".join(events) + b"]")


class Bench:
    """A running service, its clients, and the things to measure."""

    def __init__(self, settings: Settings, url: str, token: str, *, events: int, clients: int) -> None:
        self._url = url
        self._token = token
        self._requests = events // PER_REQUEST
        self._clients = clients
        self._chance = Random(time.time_ns())
        self._postgres = connect(settings)
        self._processes = ProcessPoolExecutor(clients)
        self.bytes_an_event: dict[str, int] = {}

    def sent(self, name: str, make: Callable[[Random], Post]) -> float:
        """Requests from so many processes at a time; all of their events must be stored."""
        posts = [make(self._chance) for _ in range(self._requests)]
        self.bytes_an_event[name] = len(posts[0].body) // PER_REQUEST
        shares = [posts[number :: self._clients] for number in range(self._clients)]
        # Connected, imported, ready.
        self._send([[]] * self._clients)
        before = self._stored()
        with Timed(self._requests * PER_REQUEST) as rate:
            self._send(shares)
        if (stored := self._stored() - before) != self._requests * PER_REQUEST:
            raise RuntimeError(f"{name}: expected {self._requests * PER_REQUEST} events stored, came {stored}")
        return rate.per_second

    def settle(self) -> None:
        """Between two measurements: nothing of the last one is left to be written during the next."""
        self._postgres.execute("vacuum analyze analytics.usage_events, analytics.usage_event_ids")
        self._postgres.execute("checkpoint")

    def close(self) -> None:
        self._processes.shutdown()
        self._postgres.close()

    def _send(self, shares: list[list[Post]]) -> None:
        list(self._processes.map(_send, [self._url] * self._clients, [self._token] * self._clients, shares))

    def _stored(self) -> int:
        query = "select coalesce(sum(inserted), 0)::bigint from ops.ingest_batches"
        [[stored]] = self._postgres.execute(query).fetchall()
        return int(stored)


def _send(url: str, token: str, posts: list[Post]) -> None:
    """One client's requests, one after the other on one connection."""
    with httpx.Client(trust_env=False, timeout=60, headers={"Authorization": f"Bearer {token}"}) as client:
        client.get(f"{url}/")
        for post in posts:
            headers = {"Content-Type": post.media_type, **({"Content-Encoding": "gzip"} if post.is_packed else {})}
            client.post(f"{url}{post.path}", content=post.body, headers=headers).raise_for_status()


def measure(settings: Settings, *, events: int, repeats: int, workers: int, clients: int) -> Result:
    """All formats in turns, `repeats` times after a warm-up that is not counted."""
    subjects: dict[str, Callable[[Random], Post]] = {
        _PLAIN: _plain,
        "bulk, what spans tell": partial(_of_spans, rules=Rules.of(settings)),
        "OTLP, protobuf": _protobuf,
        "OTLP, JSON": _otlp_json,
        "bulk, what LiteLLM tells": _of_litellm,
        "LiteLLM's callback": _litellm,
    }
    with ExitStack() as stack:
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
            token = create_token(connection, "benchmark", ["ingest"]).token
        port = stack.enter_context(running_service(settings, "usage_pipeline.cli", "api", "--workers", str(workers)))
        url = f"http://{LOOPBACK}:{port}"
        bench = stack.enter_context(closing(Bench(settings, url, token, events=events, clients=clients)))
        measured = {name: partial(bench.sent, name, make) for name, make in subjects.items()}
        rates: Rates = measure_in_turns(measured, repeats=repeats, settle=bench.settle)
        return Result(
            events=events,
            repeats=repeats,
            clients=clients,
            workers=workers,
            bytes_an_event=bench.bytes_an_event,
            per_second=medians(rates),
            to_plain={name: paired_ratio(rates, name, _PLAIN) for name in rates},
        )


def table(result: Result) -> Table:
    """What was measured, as a person reads it."""
    title = (
        f"{result.events:,} events, {PER_REQUEST} a request, {result.clients} clients, {result.workers} workers; "
        f"medians of {result.repeats}"
    )
    shown = table_of(title, "", "bytes an event", "events a second", "to plain events")
    for name, rate in result.per_second.items():
        shown.add_row(name, f"{result.bytes_an_event[name]:,}", f"{rate:,.0f}", f"{result.to_plain[name]:.2f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_480, help="events in one measurement")
    add_repeats(parser)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the service")
    parser.add_argument("--clients", type=int, default=4, help="clients at a time")
    chosen = parsed(parser)
    if chosen.events < chosen.clients * PER_REQUEST or min(chosen.repeats, chosen.workers, chosen.clients) < 1:
        parser.error(f"expected at least {PER_REQUEST} events a client, one repeat, one worker and one client")
    with own_servers() as settings:
        result = measure(
            settings,
            events=chosen.events,
            repeats=chosen.repeats,
            workers=chosen.workers,
            clients=chosen.clients,
        )
    show(asdict(result), [table(result)], as_json=chosen.json)


if __name__ == "__main__":
    main()

"""The usage events of the demo. Clients send them to the HTTP service, some of them twice, while counters are drained."""

import gzip
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from usage_pipeline.local.processes.children import Child, start_child, stop_children
from usage_pipeline.local.servers.ports import LOOPBACK, free_port
from usage_pipeline.local.traffic.counters import Counts
from usage_pipeline.local.traffic.services import SentEvent

Event = Mapping[str, Any]
# As they are stored, and as they are rolled up by day: the same counts.
FAMILIES = ("usage_event", "usage_daily")
_BATCH = 500
_CLIENTS = 2
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_SUMS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
)


class ServiceError(RuntimeError):
    """The HTTP service did not start, or refused a good request."""


@dataclass(slots=True)
class Sent:
    """What the clients sent, and what the service answered."""

    counts: Counts = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)


@contextmanager
def service(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Runs the HTTP service as a process, and gives its address when it answers. Raises ServiceError."""
    port = free_port()
    command = [sys.executable, "-m", "usage_pipeline.cli", "api", "--host", LOOPBACK, "--port", str(port)]
    mark = str(folder.resolve())
    child = start_child(
        "api", command, mark=mark, environment=environment, folder=Path.cwd(), log=folder / "logs" / "api.log"
    )
    try:
        url = f"http://{LOOPBACK}:{port}"
        _wait_until_it_answers(url, child)
        yield url
    finally:
        stop_children([child])


def send_events(url: str, token: str, sent_events: Sequence[SentEvent]) -> Sent:
    """Sends all events from two clients at once, each tenth event twice, and one malformed event. Raises ServiceError."""
    events = [one.event for one in sent_events]
    shares = [_batches(events[number::_CLIENTS], is_first=number == 0) for number in range(_CLIENTS)]
    sent = Sent()
    with ThreadPoolExecutor(_CLIENTS, thread_name_prefix="event client") as clients:
        for told in clients.map(lambda share: _send(url, token, share), shares):
            sent.answers.update(told)
    sent.counts = counts_of(sent_events)
    return sent


def counts_of(events: Sequence[SentEvent]) -> Counts:
    """What is stored of these events, and what is rolled up by day, in units."""
    total: Counts = Counter()
    for sent in events:
        key = "/".join(sent.event[name] for name in ("team", "service", "provider", "model"))
        counts = {
            "requests": 1,
            "errors": int("error_type" in sent.event),
            **{name: sent.units.get(name, 0) for name in _SUMS},
        }
        total.update({(family, key, name): value for family in FAMILIES for name, value in counts.items()})
    return total


def _batches(events: Sequence[Event], *, is_first: bool) -> Iterator[list[Event]]:
    doubled = itertools.chain.from_iterable(
        [event, event] if at % 10 == 0 else [event] for at, event in enumerate(events)
    )
    while batch := list(itertools.islice(doubled, _BATCH)):
        yield batch
    if is_first and events:
        # Of a client that leaves cached tokens out of the input tokens.
        wrong = {"event_id": "a broken client", "input_tokens": 5, "usage": {"cache_read_tokens": 128_000}}
        yield [{name: value for name, value in events[0].items() if name != "provider_usage"} | wrong]


def _send(url: str, token: str, batches: Iterator[list[Event]]) -> Counter[str]:
    told = Counter[str]()
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }
    with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
        for batch in batches:
            answer = client.post(
                f"{url}/api/v1/ingest/requests:bulk", content=gzip.compress(json.dumps(batch).encode(), 1)
            )
            if answer.status_code != 200:
                raise ServiceError(f"expected 200 from {answer.url}, came {answer.status_code}: {answer.text}")
            report = answer.json()
            told.update({name: report[name] for name in ("received", "inserted", "duplicates", "conflicts")})
            told.update(requests=1, rejected=len(report["rejected"]))
    return told


def _wait_until_it_answers(url: str, child: Child) -> None:
    """Asks `/`, which says whether the service works. `/healthz` is 503 while the scheduler of a stopped `dev` looks dead."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.has_ended:
            break
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(_POLL_SECONDS)
    raise ServiceError(f"the HTTP service does not answer; the end of its log:\n{child.log_tail()}")

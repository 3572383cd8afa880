"""Dead letters of every kind, made by real drains, aggregations and landed files, and the real commands."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import redis
from typer.testing import CliRunner

from usage_pipeline.cli import app
from usage_pipeline.drain.rounds import drain_once
from usage_pipeline.events.landing.folder import Landing
from usage_pipeline.events.landing.reading import FileReport, ingest_file
from usage_pipeline.merchants.aggregation import aggregate
from usage_pipeline.settings import Settings
from usage_pipeline_tests.drain.rig import event_item
from usage_pipeline_tests.rigs.clock import today
from usage_pipeline_tests.rigs.events import archive, event

MAX = 2**63 - 1
NOW = datetime.now(UTC)
EVENT_ID = str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, and its exit status. `said` is the line of an error that the caller can correct."""

    status: int
    output: str
    said: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output)
        return found


@dataclass(frozen=True, slots=True)
class World:
    """Real servers, a landing folder, and the commands on them."""

    settings: Settings
    redis: redis.Redis
    postgres: psycopg.Connection
    folder: Path

    def run(self, *arguments: str) -> Answer:
        result = CliRunner().invoke(app, ["dead-letters", *arguments])
        return Answer(result.exit_code, result.stdout, str(result.exception or ""))

    def land(self, name: str, content: str | bytes) -> FileReport:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
        return ingest_file(self.postgres, Landing(str(self.folder)), name, settings=self.settings)

    def drain(self) -> None:
        drain_once(self.settings)

    def aggregate(self) -> None:
        aggregate(self.settings, [today()])

    def states(self) -> dict[int, str]:
        """All dead letters by number."""
        listed = self.run("list", "--all", "--json").document["dead_letters"]
        return {letter["dead_letter_id"]: letter["state"] for letter in listed}

    def query(self, text: str) -> list[tuple[Any, ...]]:
        return self.postgres.execute(text).fetchall()


@dataclass(frozen=True, slots=True)
class Case:
    """How a dead letter comes about, what is right in place of VALUE, what happens meanwhile, and the numbers afterwards.

    `does` is a part of the first advice. With `numbers` None, that advice does not make it count.
    """

    name: str
    make: Callable[[World], Any]
    does: str
    query: str
    numbers: list[tuple[Any, ...]]
    value: str = ""
    meanwhile: Callable[[World], Any] = lambda world: None
    counts: bool = True


def key(**fields: Any) -> Callable[[World], None]:
    """A hash of an API key, drained."""

    def make(world: World) -> None:
        world.redis.hset("apikey:k:metrics", mapping=fields)
        world.drain()

    return make


def token(name: str, value: Mapping[str, Any]) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.redis.set(name, json.dumps(value))
        world.drain()

    return make


def queued(*items: str | bytes) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.redis.rpush("event_queue", *items)
        world.drain()

    return make


def landed(*items: Mapping[str, Any] | str, name: str = "u.jsonl") -> Callable[[World], None]:
    lines = [item if isinstance(item, str) else json.dumps(item) for item in items]

    def make(world: World) -> None:
        assert world.land(name, "\n".join(lines)).rejected

    return make


def merchant(name: str, value: str) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.redis.set(name, value)
        world.aggregate()

    return make


def full_key(world: World) -> None:
    """A total that has no room, and 5 more requests."""
    world.redis.hset("apikey:full:metrics", "total_requests", MAX)
    world.drain()
    world.redis.hset("apikey:full:metrics", "total_requests", 5)
    world.drain()


def wrong_type(world: World) -> None:
    world.redis.rpush("apikey:list:metrics", "x")
    world.drain()


WITHOUT_USER = json.loads(event_item(event_id=EVENT_ID))
del WITHOUT_USER["user_id"]
EVENTS = "select team, total_tokens from analytics.usage_events order by total_tokens"
KEYS = "select total_requests, total_file_size from usage.api_keys"
QUEUE = "select user_id, file_size from raw.request_events order by file_size"
TOKENS = "select token_id, usage_count from usage.api_access_tokens"
MERCHANTS = "select merchant_id, metric_value from usage.merchant_usage"
EXPORT, REPLAY, SET, UNSET = " export ", " replay ", " --set ", " --unset "
LATE_EVENT = event(total_tokens=120)
CASES = [
    Case("negative size", key(total_requests=5, total_file_size=-2048), SET, KEYS, [(5, 7)], "7"),
    Case(
        "full total",
        full_key,
        REPLAY,
        KEYS,
        [(15, 0)],
        meanwhile=lambda world: world.query("update usage.api_keys set total_requests = 10 returning 1"),
    ),
    Case("key of another type", wrong_type, EXPORT, KEYS, [], counts=False),
    Case(
        "time of a token",
        token("token_usage:t:i", {"usageCount": 3, "lastUsedAt": "soon"}),
        SET,
        TOKENS,
        [("t", 3)],
        NOW.isoformat(),
    ),
    Case(
        "instance of a token",
        token("token_usage:t:i", {"usageCount": 3, "instanceId": "j"}),
        SET,
        TOKENS,
        [("t", 3)],
        "i",
    ),
    Case("key without an instance", token("token_usage:t", {"usageCount": 3}), EXPORT, TOKENS, [], counts=False),
    Case("time of a queue item", queued(event_item(at="soon", file_size=9)), SET, QUEUE, [("u", 9)], NOW.isoformat()),
    Case("queue item without a user", queued(json.dumps(WITHOUT_USER | {"file_size": 9})), SET, QUEUE, [("5", 9)], "5"),
    Case("queue item that is no JSON", queued("{bad"), EXPORT, QUEUE, [], counts=False),
    Case(
        "queue item in conflict",
        queued(event_item(event_id=EVENT_ID, file_size=3), event_item(event_id=EVENT_ID, file_size=4)),
        SET,
        QUEUE,
        [("u", 3), ("u", 4)],
        str(uuid.uuid4()),
    ),
    Case("event without a team", landed(event(team=..., total_tokens=120)), SET, EVENTS, [("search", 120)], "search"),
    Case("event with a team of digits", landed(event(team="", total_tokens=120)), SET, EVENTS, [("42", 120)], "42"),
    Case("event with a text as count", landed(event(latency_ms="x")), SET, EVENTS, [("search", 120)], "10"),
    Case(
        "event with a wrong total", landed(event(total_tokens=7)), " --unset total_tokens ", EVENTS, [("search", 120)]
    ),
    Case(
        "event with a part over its whole",
        landed(event(usage={"cache_read_tokens": 900})),
        " --set input_tokens=VALUE ",
        EVENTS,
        [("search", 1020)],
        "1000",
    ),
    Case(
        "event with parts over their whole in usage, and a total",
        landed(
            event(
                input_tokens=...,
                usage={"input_tokens": 100, "cache_read_tokens": 90, "cache_write_tokens": 90},
                total_tokens=120,
            )
        ),
        " --set usage.input_tokens=VALUE --unset total_tokens ",
        EVENTS,
        [("search", 300)],
        "280",
    ),
    Case(
        "event with a part over a whole that is told twice",
        landed(event(usage={"output_tokens": 20, "output_reasoning_tokens": 80})),
        " --set output_tokens=VALUE --set usage.output_tokens=VALUE ",
        EVENTS,
        [("search", 200)],
        "100",
    ),
    Case(
        "event with a part over a part",
        landed(event(usage={"cache_read_tokens": 10, "cache_audio_read_tokens": 20})),
        " --set usage.cache_read_tokens=VALUE ",
        EVENTS,
        [("search", 120)],
        "30",
    ),
    Case("event with an unknown member", landed(event(toatl_tokens=7)), UNSET, EVENTS, [("search", 120)]),
    Case(
        "event of long ago",
        landed(event(event_time="2001-01-01T00:00:00Z")),
        SET,
        EVENTS,
        [("search", 120)],
        (NOW - timedelta(hours=1)).isoformat(),
    ),
    Case("line that is no JSON", landed('{"team": "search'), EXPORT, EVENTS, [], counts=False),
    Case(
        "archive before its event",
        landed(archive(LATE_EVENT["event_id"]), name="archives/a.jsonl"),
        REPLAY,
        "select count(*) from analytics.message_archives",
        [(1,)],
        meanwhile=lambda world: world.land("late.jsonl", json.dumps(LATE_EVENT)),
    ),
    Case(
        "archive without texts",
        landed(archive(EVENT_ID, prompt_full=..., response_full=...), name="archives/a.jsonl"),
        SET,
        "select count(*) from analytics.message_archives",
        [(1,)],
        "text",
        meanwhile=lambda world: world.land("late.jsonl", json.dumps(event(event_id=EVENT_ID))),
    ),
    Case(
        "merchant counter that is no number",
        merchant(f"usage:m:{today()}:orders", "five"),
        "aggregate",
        MERCHANTS,
        [("m", 5)],
        meanwhile=lambda world: world.redis.set(f"usage:m:{today()}:orders", 5),
    ),
]

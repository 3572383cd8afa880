"""Counter traffic: requests that are made up or read from a real trace, and a writer that counts what it wrote."""

import csv
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import redis
from usage_recorder.keys import EVENT_QUEUE, api_key_metrics, token_usage
from usage_recorder.recorder import Recorder

DAY_MS = 86_400_000
# (family, key, field) -> count
Counts = Counter[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request of an API client; `file_size` in bytes, `at_ms` in epoch milliseconds."""

    api_key_id: str
    user_id: str
    provider: str
    token_id: str
    instance_id: str
    merchant_id: str
    file_size: int
    is_success: bool
    at_ms: int


class TraceError(ValueError):
    """A trace file does not have the expected form. The message names the line."""


@dataclass(slots=True)
class Written:
    """What a writer wrote and Redis confirmed: counts, and the number of malformed keys of each family."""

    counts: Counts = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    dropped: int = 0


def made_up_requests(seed: int, seconds: float, days: int, *, mark: str) -> Iterator[Request]:
    """Requests of 40 API keys for `seconds`. Their times go through the last `days` days. `mark` ends every id.

    Some keys go silent in the first third, some fail often, and one merchant grows.
    """
    chance = random.Random(seed)  # noqa: S311  # made-up traffic, reproducible by its seed
    started = time.monotonic()
    first_ms = round(time.time() * 1000) - (days - 1) * DAY_MS
    while (elapsed := time.monotonic() - started) < seconds:
        number, progress = min(int(chance.paretovariate(0.9)), 40), elapsed / seconds
        if number % 10 == 7 and progress > 1 / 3:
            number = 1
        yield Request(
            api_key_id=f"key-{number:02d}-{mark}",
            user_id=f"user-{number % 12:02d}-{mark}",
            provider=chance.choice(("s3", "gcs", "azure-blob")),
            token_id=f"token-{number % 8}-{mark}",
            instance_id=f"api-{chance.randrange(3)}:8080",
            merchant_id=f"merchant-{3 if chance.random() < progress / 3 else number % 6}-{mark}",
            file_size=chance.randrange(1_000, 5_000_000),
            is_success=chance.random() < (0.85 if number % 10 == 3 else 0.97),
            at_ms=first_ms + int(progress * (days - 1) * DAY_MS),
        )


def trace_requests(path: Path, *, mark: str) -> Iterator[Request]:
    """The requests of a CSV with TIMESTAMP, ContextTokens, GeneratedTokens, shifted so that the last one is made now.

    The number of context tokens becomes the size of the file. `mark` ends every id. Raises TraceError, which names the line,
    or OSError.
    """
    rows = list(trace_rows(path))
    if not rows:
        raise TraceError(f"{path}: expected at least one request, came none")
    shift_ms = round(time.time() * 1000) - max(at_ms for at_ms, _, _ in rows)
    for number, (at_ms, context_tokens, generated_tokens) in enumerate(rows):
        yield Request(
            api_key_id=f"trace-key-{number % 50:02d}-{mark}",
            user_id=f"trace-user-{number % 20:02d}-{mark}",
            provider="azure",
            token_id=f"trace-token-{number % 10}-{mark}",
            instance_id=f"trace-{number % 3}:8080",
            merchant_id=f"trace-merchant-{number % 5}-{mark}",
            file_size=context_tokens,
            is_success=generated_tokens > 0,
            at_ms=at_ms + shift_ms,
        )


def write(recorder: Recorder, requests: Iterator[Request], written: Written, timezone: ZoneInfo) -> None:
    """Records each request in all five ways, and counts in `written` what the recorder wrote or keeps.

    `timezone` is the recorder's: it bounds the days of merchant counters.
    """
    for request in requests:
        key, at_ms, size = request.api_key_id, request.at_ms, request.file_size
        api_key = {
            "total_requests": 1,
            "successful_requests": int(request.is_success),
            "failed_requests": int(not request.is_success),
            "total_file_size": size,
            "total_files_uploaded": 1,
        }
        confirmed = recorder.record_api_key(
            key, success=request.is_success, file_size=size, files_uploaded=1, at_ms=at_ms
        )
        _count(written, confirmed, "api_key", key, api_key)
        confirmed = recorder.record_provider(
            key, request.provider, user_id=request.user_id, file_size=size, at_ms=at_ms
        )
        _count(
            written, confirmed, "provider", f"{key}:{request.provider}", {"upload_count": 1, "total_file_size": size}
        )
        confirmed = recorder.record_token(request.token_id, request.instance_id, at_ms=at_ms)
        _count(written, confirmed, "token", request.token_id, {"usage_count": 1})
        confirmed = recorder.record_merchant(request.merchant_id, "requests", at_ms=at_ms)
        day = datetime.fromtimestamp(at_ms / 1000, timezone).date()
        _count(written, confirmed, "merchant", f"{request.merchant_id}:{day}:requests", {"metric_value": 1})
        event_id = recorder.record_event(
            key,
            user_id=request.user_id,
            provider=request.provider,
            event_type="upload",
            file_size=size,
            success=request.is_success,
            at_ms=at_ms,
        )
        _count(written, event_id is not None, "event", key, {"events": 1})
        written.requests += 1


def write_backlog(client: redis.Redis, written: Written, keys: int, *, mark: str) -> None:
    """Writes hashes of so many API keys for one large drain, with plain commands, as other API servers do."""
    now_ms = round(time.time() * 1000)
    for first in range(0, keys, 1_000):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(first, min(first + 1_000, keys)):
                key = f"backlog-{number:06d}-{mark}"
                counts = {
                    "total_requests": 1 + number % 9,
                    "successful_requests": 1 + number % 9,
                    "total_file_size": number,
                }
                for name, value in (*counts.items(), ("last_used_at", now_ms)):
                    pipeline.hset(api_key_metrics(key), name, value)
                pipeline.expire(api_key_metrics(key), 7 * 86_400)
                _count(written, True, "api_key", key, counts)
            pipeline.execute()


def write_malformed(client: redis.Redis, written: Written, *, mark: str) -> None:
    """Writes one malformed key or item of each drained family, as a broken writer would. Each must become a dead letter."""
    writer = f"broken-writer-{mark}"
    client.hset(api_key_metrics(writer), "total_requests", "12 or so")
    client.set(token_usage(writer, "api-0:8080"), b'{"usageCount": 1,')
    client.rpush(EVENT_QUEUE.decode(), b"\xff not JSON of " + writer.encode())
    written.malformed.update(["api_key", "token", "event"])


def _count(written: Written, confirmed: bool, family: str, key: str, counts: dict[str, int]) -> None:
    if confirmed:
        written.counts.update({(family, key, name): value for name, value in counts.items()})
    else:
        written.dropped += 1


def trace_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    """(epoch milliseconds, context tokens, generated tokens) of each line. Raises TraceError naming the line, or OSError."""
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                # Seven digits of fraction are common in these traces; Python reads six.
                at = datetime.fromisoformat(row["TIMESTAMP"][:26])
                at = at if at.tzinfo else at.replace(tzinfo=UTC)
                yield round(at.timestamp() * 1000), int(row["ContextTokens"]), int(row["GeneratedTokens"])
            except (KeyError, TypeError, ValueError) as error:
                expected = "TIMESTAMP, ContextTokens, GeneratedTokens"
                raise TraceError(f"{path}, line {line}: expected {expected}, came {row}: {error}") from None

"""OpenAI's usage, as its Usage API answers and as its dashboard exports it -> usage events (contracts §9). Pure; no I/O.

OpenAI tells sums: of all requests in a span of time (a bucket), by project, user, key, model and whatever else was asked for.
Each sum becomes one event, which says in `extra` of how many requests it is.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from usage_pipeline.events.formats.absent import present
from usage_pipeline.events.formats.outlines import UNKNOWN, text_of
from usage_pipeline.values import Malformed, shown

SOURCE = "openai-usage"
_PROVIDER = "openai"
# By what a sum is told from another one of its bucket. Names of projects and people may change.
GROUPING = ("project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source", "size", "source")
# Exports do not say what they are of: it is in the name of the file.
_USUAL_KIND = "completions"
# Unit -> the counts that it is the sum of. Cached audio and images are told beside the others since 2025.
_UNITS = {
    "cache_read_tokens": ("input_cached_tokens",),
    "cache_write_tokens": ("input_cache_write_tokens",),
    "input_audio_tokens": ("input_audio_tokens", "input_cached_audio_tokens"),
    "input_image_tokens": ("input_image_tokens", "input_cached_image_tokens"),
    "cache_audio_read_tokens": ("input_cached_audio_tokens",),
    "cache_image_read_tokens": ("input_cached_image_tokens",),
    "output_audio_tokens": ("output_audio_tokens",),
    "output_image_tokens": ("output_image_tokens",),
    "input_characters": ("characters",),
    "audio_seconds": ("seconds",),
}
# Of what two units share, a 0 says that it is nothing.
_SHARED = ("cache_audio_read_tokens", "cache_image_read_tokens")
_TOKENS = ("input_tokens", "output_tokens")
_USUAL_TIERS = ("default", "standard", "auto")
# Results that are no use of a model: storage, sessions, and money without what it was for.
_NO_MODEL = ("vector_stores", "code_interpreter_sessions", "file_searches", "web_searches", "costs")


class NotOver(Exception):
    """A bucket may still grow: counted now, what it gets later would be lost."""


class NoRequest(Exception):
    """A result is no use of a model; the message says what it is."""


def results_in(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The results of a bucket, each with the times of the bucket; a row of an export is one by itself.

    A row without any counts, as exports have it for a bucket without use, has none. Raises Malformed.
    """
    inside = row.get("results", row.get("result"))
    if inside is None and "num_model_requests" not in row and row.get("object") == "bucket":
        raise Malformed("results: expected the results of a bucket, came none")
    times = {name: row.get(name) for name in ("start_time", "end_time")}
    for result in [row] if inside is None else inside if isinstance(inside, list) else [inside]:
        if not isinstance(result, dict):
            raise Malformed("results: expected objects, came something else")
        found = present(result) | present(times)
        if found.keys() - {*times, "start_time_iso", "end_time_iso", "object"}:
            yield found


def event_of(result: Mapping[str, Any], now: datetime) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A result with the times of its bucket -> an event without an id, and what tells it from others of the same counts.

    Raises NotOver, NoRequest, and Malformed.
    """
    kind = text_of(result.get("object")).removeprefix("organization.").removeprefix("usage.").removesuffix(".result")
    if kind in _NO_MODEL or "amount_value" in result or "amount" in result:
        raise NoRequest(kind or "costs")
    start, end = _moment("start_time", result), _moment("end_time", result)
    if end > now:
        raise NotOver
    requests = _count("num_model_requests", result)
    if requests is None:
        raise Malformed("num_model_requests: expected a count, came none")
    model = text_of(result.get("model"))
    if not model:
        raise Malformed("model: expected usage grouped by model (group_by=model), came a sum over all of them")
    units = {unit: _sum(result, names) for unit, names in _UNITS.items()}
    tokens = {name: _count(name, result) for name in _TOKENS}
    is_batch = _text(result.get("batch")) == "true"
    tier = "batch" if is_batch else text_of(result.get("service_tier"))
    event: dict[str, Any] = {
        "source": SOURCE,
        "event_time": start.isoformat(),
        "user_id": text_of(result.get("user_id")) or UNKNOWN,
        "team": text_of(result.get("project_id")) or UNKNOWN,
        "service": UNKNOWN,
        "provider": _PROVIDER,
        "model": model,
        **{name: count for name, count in tokens.items() if count is not None},
        "usage": {unit: count for unit, count in units.items() if count or (count == 0 and unit in _SHARED)},
        "service_tier": "" if tier in _USUAL_TIERS else tier,
        "api_key_id": text_of(result.get("api_key_id")),
        "extra": {"num_model_requests": requests, "bucket_end": end.isoformat(), **_images(result)},
    }
    # A bucket with the same grouping is the same one, also when it has more in it.
    grouping = (
        kind or _USUAL_KIND,
        start.isoformat(),
        end.isoformat(),
        *(_text(result.get(name)) for name in GROUPING),
    )
    return {name: value for name, value in event.items() if value not in ("", {})}, grouping


def _images(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"images": count} if (count := _count("images", result)) is not None else {}


def _text(value: object) -> str:
    return (
        str(value).lower() if isinstance(value, bool) or value in ("TRUE", "FALSE", "True", "False") else text_of(value)
    )


def _sum(result: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    counts = [count for name in names if (count := _count(name, result)) is not None]
    return sum(counts) if counts else None


def _count(name: str, result: Mapping[str, Any]) -> int | None:
    """A count, which exports write as `10.0`. Raises Malformed."""
    value = result.get(name)
    if value is None:
        return None
    try:
        number = int(value) if isinstance(value, int) or str(value).isdecimal() else float(value)
        if number >= 0 and float(number).is_integer():
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Malformed(f"{name}: expected a count, came {shown(str(value).encode(errors='backslashreplace'))}")


def _moment(name: str, result: Mapping[str, Any]) -> datetime:
    seconds = _count(name, result)
    if seconds is None:
        raise Malformed(f"{name}: expected seconds since 1970, came none")
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise Malformed(f"{name}: expected seconds since 1970, came {seconds}") from None

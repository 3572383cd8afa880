"""The counts of a request in LiteLLM's usage objects -> tokens and units of an event (contracts §8.1). Pure; no I/O.

LiteLLM makes OpenAI's shape of what any provider answers. Prompt and completion tokens include what is cached, thought or
heard.
"""

from collections.abc import Mapping
from typing import Any

from usage_pipeline.events.formats.outlines import object_of

_PROMPT, _COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
# Where details lie; the second ones are of the responses API, the third ones of transcriptions.
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
# Names of counts and their units; for some in an object inside. The first that is there and not 0 counts, since LiteLLM writes
# some in several places.
_IN_PROMPT = (
    ("cached_tokens", "cache_read_tokens"),
    ("cache_write_tokens", "cache_write_tokens"),
    ("cache_creation_tokens", "cache_write_tokens"),
    ("audio_tokens", "input_audio_tokens"),
    ("image_tokens", "input_image_tokens"),
    ("video_tokens", "input_video_tokens"),
    ("character_count", "input_characters"),
    ("audio_length_seconds", "input_audio_seconds"),
    ("web_search_requests", "web_searches"),
)
_DEEPER_IN_PROMPT = (
    ("cache_creation_token_details", "ephemeral_5m_input_tokens", "cache_write_5m_tokens"),
    ("cache_creation_token_details", "ephemeral_1h_input_tokens", "cache_write_1h_tokens"),
    ("cached_tokens_details", "audio_tokens", "cache_audio_read_tokens"),
    ("cached_tokens_details", "image_tokens", "cache_image_read_tokens"),
)
# Of what two units share, a 0 says that it is nothing.
_SHARED = ("cache_audio_read_tokens", "cache_image_read_tokens")
_IN_COMPLETION = (
    ("reasoning_tokens", "output_reasoning_tokens"),
    ("audio_tokens", "output_audio_tokens"),
    ("image_tokens", "output_image_tokens"),
    ("video_tokens", "output_video_tokens"),
)
_BESIDE = (
    ("cache_read_input_tokens", "cache_read_tokens"),
    ("cache_creation_input_tokens", "cache_write_tokens"),
    ("num_search_queries", "web_searches"),
)
_DEEPER_BESIDE = (("server_tool_use", "web_search_requests", "web_searches"),)
_Flat = tuple[tuple[str, str], ...]
_Deeper = tuple[tuple[str, str, str], ...]


def tokens_and_units(usage: Mapping[str, Any], prompt: object, completion: object, total: object) -> dict[str, Any]:
    """Members of an event. `prompt`, `completion` and `total` are those of the record itself, of which 0 may mean unknown."""
    entered = prompt or _first(usage, _PROMPT)
    left = completion or _first(usage, _COMPLETION)
    whole = total or usage.get("total_tokens")
    units = _units(usage)
    if not (entered or left or whole or units):
        return {}
    found = {"input_tokens": entered, "output_tokens": left}
    if not (entered or left):
        # A total alone: what it consists of is not known.
        found = {}
    # LiteLLM sums up what providers say, which do not all sum up: a total below its parts is none.
    parts = sum(part for part in (entered, left) if isinstance(part, int | float))
    if not isinstance(whole, int | float) or whole > parts:
        found["total_tokens"] = whole
    return {
        **{name: count for name, count in found.items() if count is not None},
        **({"usage": units} if units else {}),
    }


def _units(usage: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    _add(told, _details(usage, _PROMPT_DETAILS), _IN_PROMPT, _DEEPER_IN_PROMPT)
    _add(told, _details(usage, _COMPLETION_DETAILS), _IN_COMPLETION, ())
    _add(told, usage, _BESIDE, _DEEPER_BESIDE)
    if usage.get("type") == "duration" and (seconds := usage.get("seconds")):
        told["audio_seconds"] = seconds
    return told


def _details(usage: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return next((found for name in names if (found := object_of(usage.get(name)))), {})


def _add(told: dict[str, Any], inside: Mapping[str, Any], flat: _Flat, deeper: _Deeper) -> None:
    if not inside:
        return
    for outer, name, unit in deeper:
        if found := inside.get(outer):
            count = object_of(found).get(name)
            if count or (count == 0 and unit in _SHARED):
                told.setdefault(unit, count)
    for name, unit in flat:
        if count := inside.get(name):
            told.setdefault(unit, count)


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((usage[name] for name in names if usage.get(name) is not None), None)

"""Valid inputs of each parser, and the pieces that are put into them."""

import gzip
import json

from usage_pipeline_tests.drain.rig import event_item
from usage_pipeline_tests.events.otlp.spans import CHAT, encoded, request_of
from usage_pipeline_tests.fuzz.parsers import SEPARATOR
from usage_pipeline_tests.rigs.events import archive, event

_TIME = "2026-03-02T11:00:00Z"
_ID = "7d9f1e0c-1a3b-4c5d-8e6f-0123456789ab"
_EVENT = event(event_id=_ID, event_time=_TIME, prompt="a\tb \\ \u00fc", extra={"a": [1, None, {"b": "\U0001f600"}]})
_WITH_UNITS = event(
    event_id="chatcmpl-1",
    event_time=_TIME,
    source="gateway-1",
    usage={"cache_read_tokens": 9, "input_audio_tokens": 1.0, "audio_seconds": 0.5, "web_searches": None},
    service_tier="batch",
    cost_usd="0.10",
    api_key_id="key\t1",
    tags={"a": "b\\", "c": ""},
)
_OF_PROVIDER = event(
    event_time=_TIME,
    input_tokens=...,
    provider_usage={
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 3},
    },
)
_EVENTS = json.dumps({"events": [_EVENT, event(event_id=_ID, event_time=_TIME, total_tokens=120.0)]}).encode()
_ARCHIVES = json.dumps([archive(_ID, prompt_full="a\nb"), archive(_ID, response_full=None)]).encode()
_HASH = b"total_requests\0005\000total_file_size\000-7\000last_used_at\0001772452700000\000what\000ever"
_PROVIDER = b"upload_count\0001\000user_id\000u\000provider\000s3\000last_used_at\0001772452700000"
_TOKEN = json.dumps({"usageCount": 3, "lastUsedAt": _TIME, "instanceId": "api-1"}).encode()
_QUEUED = event_item(event_id=_ID, at=_TIME, more={"a": 1})
_LINES = json.dumps(_EVENT).encode() + b"\n\n" + json.dumps(_EVENT).encode()

_TRACES = request_of({**CHAT, "gen_ai.prompt.0.content": "a", "list": [1, 2.5, True]}, {"plain": "\u00fc"})

SEEDS = {
    "usage_events": [
        _EVENTS,
        b"[" + json.dumps(_EVENT).encode() + b"]",
        json.dumps([_WITH_UNITS, _OF_PROVIDER]).encode(),
        json.dumps(_WITH_UNITS).encode(),
    ],
    "message_archives": [_ARCHIVES],
    "gzip_body": [gzip.compress(_EVENTS), gzip.compress(_EVENTS) + gzip.compress(b"[]"), gzip.compress(b"0" * 2**21)],
    "counters": [
        SEPARATOR.join((bytes([0]), b"k", _HASH, b"a:b", _HASH)),
        SEPARATOR.join((bytes([1]), b"k:s3", _PROVIDER)),
        SEPARATOR.join((bytes([2]), b"t:api-1", _TOKEN)),
    ],
    "event_queue": [SEPARATOR.join((_QUEUED, _QUEUED))],
    "landed_files": [
        b"\0" + _LINES,
        b"\1" + gzip.compress(_LINES),
        b"\2" + _EVENTS,
        b"\3" + gzip.compress(_EVENTS),
    ],
    "traces": [bytes([is_json]) + encoded(_TRACES, bool(is_json)) for is_json in (0, 1)],
}

# What breaks parsers: wrong texts, wide and lone characters, numbers at the limits, nesting, what COPY would have to escape.
PIECES = [
    b'"\\ud800"',
    b'"\\u0000"',
    b"\\udfff",
    "\u202e\U0001f600\ufeff\u2028".encode(),
    b"\xed\xa0\x80",
    b"\xff",
    b"\0",
    b"\\.",
    b"\\N",
    b"\t",
    b"\r\n",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-1",
    b"1e400",
    b"1e3",
    b"10.0",
    b"1.5",
    b"-0",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b'""',
    b"{}",
    b"[]",
    b"[" * 40,
    b'{"a":' * 20,
    b'"' + b"x" * 201 + b'"',
    b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:59.999999999Z",
    b"2026-03-02T24:00:00+99:99",
    b'"event_id":',
    b'"total_tokens":',
    b'"usage":',
    b'"provider_usage":',
    b'"tags":',
    b'"cost_usd":',
    SEPARATOR,
]

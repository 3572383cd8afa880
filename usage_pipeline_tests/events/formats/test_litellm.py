"""What LiteLLM logged is what we count: its own payloads are the oracle, and its rules where it has none."""

import hashlib
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from usage_pipeline.events.formats.litellm import event_of, spend_log_item
from usage_pipeline.events.ingest.model import EventWindow, parse_event
from usage_pipeline.settings import load_settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.events.formats.recorded import payload, payloads
from usage_pipeline_tests.rigs.events import NOW

WINDOW = EventWindow.around(NOW, load_settings())


def event(record: Any) -> dict[str, Any]:
    """The event of a record, which the rules of events accept."""
    made = event_of(record if isinstance(record, bytes) else json.dumps(record).encode())
    parse_event(made, WINDOW)
    members: dict[str, Any] = json.loads(made)
    return members


@pytest.mark.parametrize("logged", payloads(), ids=lambda one: f"{one['call_type']}-{one['model']}-{one['status']}")
def test_tokens_and_times_of_each_recorded_request_are_those_of_litellm(logged: dict[str, Any]) -> None:
    made = event(logged)
    assert made["source"] == "litellm"
    assert made["model"] == logged["model"]
    counts = (made.get("input_tokens", 0), made.get("output_tokens", 0))
    assert counts == (logged["prompt_tokens"], logged["completion_tokens"])
    # Its mock of an embedding has no total.
    assert logged["total_tokens"] in (sum(counts), 0)
    assert datetime.fromisoformat(made["event_time"]).timestamp() == pytest.approx(logged["startTime"], abs=1e-5)
    assert made["latency_ms"] == pytest.approx((logged["endTime"] - logged["startTime"]) * 1000, abs=1)
    assert "A book." not in json.dumps(made), "answers are left out"
    assert "ledger" not in json.dumps(made), "prompts are left out"
    assert (made.get("error_type") is not None) == (logged["status"] == "failure")


def test_a_request_by_a_virtual_key_has_its_names() -> None:
    made = event(payload("success"))
    assert {name: made[name] for name in ("user_id", "team", "service", "provider", "api_key_id", "cost_usd")} == {
        "user_id": "end-user-1",
        "team": "search",
        "service": "chat",
        "provider": "openai",
        "api_key_id": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "cost_usd": payload("success")["response_cost"],
    }
    assert made["tags"] == {"prod": "true", "project": "apollo", "call_type": "acompletion", "key_alias": "chat"}


def test_what_litellm_does_not_know_is_unknown() -> None:
    bare = {"id": "x", "startTime": NOW.timestamp()}
    made = event(bare)
    assert [made[name] for name in ("user_id", "team", "service", "provider", "model")] == ["unknown"] * 5
    assert not {"cost_usd", "input_tokens", "status_code", "error_type"} & made.keys()


def test_the_owner_of_a_key_is_the_user_where_no_other_is_named_and_a_master_key_has_none() -> None:
    logged = payload("success", end_user=None, model_parameters={})
    assert event(logged)["user_id"] == "owner-1"
    logged["metadata"]["user_api_key_user_id"] = "default_user_id"
    assert event(logged)["user_id"] == "unknown"


def test_cached_thought_and_written_tokens_become_units() -> None:
    assert event(payload("cached_tokens"))["usage"] == {"cache_read_tokens": 800, "output_reasoning_tokens": 20}
    assert event(payload("cache_writes"))["usage"] == {
        "cache_read_tokens": 700,
        "cache_write_tokens": 200,
        "cache_write_5m_tokens": 150,
        "cache_write_1h_tokens": 50,
        "web_searches": 2,
    }


def test_the_usage_of_the_answer_is_read_where_the_metadata_have_none() -> None:
    logged = payload("cached_tokens")
    logged["metadata"]["usage_object"] = None
    assert event(logged)["usage"] == {"cache_read_tokens": 800, "output_reasoning_tokens": 20}


def test_other_shapes_of_usage_are_read() -> None:
    responses = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "audio_tokens": 20, "cached_tokens_details": {"audio_tokens": 0}},
        "output_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 10},
        "total_tokens": 130,
    }
    base = {"id": "x", "startTime": NOW.timestamp(), "model": "m", "prompt_tokens": 0, "completion_tokens": 0}
    made = event({**base, "metadata": {"usage_object": responses}})
    assert (made["input_tokens"], made["output_tokens"]) == (100, 30)
    assert made["usage"] == {
        "cache_read_tokens": 60,
        "input_audio_tokens": 20,
        "cache_audio_read_tokens": 0,
        "output_reasoning_tokens": 10,
    }
    spoken = event({**base, "metadata": {"usage_object": {"type": "duration", "seconds": 12.5}}})
    assert spoken["usage"] == {"audio_seconds": 12.5}
    # xAI counts thoughts beside the answer: its total has them.
    thought = event({**base, "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40})
    assert thought["total_tokens"] == 40
    # A total below its parts is a mistake of a provider, and is not needed.
    assert "total_tokens" not in event({**base, "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 10})


def test_a_failure_is_an_error_without_cost_and_each_try_of_a_request_counts() -> None:
    made = event(payload("failure"))
    assert (made["error_type"], made["status_code"]) == ("RateLimitError", 429)
    assert "cost_usd" not in made
    tries = [event(payload("retries", number)) for number in range(4)]
    assert len({payload("retries", number)["id"] for number in range(4)}) == 2, "LiteLLM repeats its id"
    assert len({one["event_id"] for one in tries}) == 4
    assert [one.get("error_type") for one in tries] == ["RateLimitError"] * 3 + [None]


def test_a_hit_in_litellms_cache_costs_nothing_and_is_a_request_of_its_own() -> None:
    hit = event(payload("cache_hit"))
    assert hit["cost_usd"] == 0
    assert hit["tags"]["cache_hit"] == "true"
    logged, filled = payload("cache_hit"), payload("cache_filled")
    answer, _, moment = logged["id"].partition("_cache_hit")
    assert moment
    assert filled["id"] == answer == event(filled)["event_id"]
    times = [int(logged[name] * 1000) for name in ("startTime", "endTime")]
    assert hit["event_id"] == "/".join((answer, "cache_hit", *map(str, times)))
    assert event(payload("cache_hit", response_cost=0.5))["cost_usd"] == 0


def test_a_cost_of_0_is_reported_only_where_litellm_knows_the_price() -> None:
    assert payload("without_price")["response_cost"] == 0
    assert "cost_usd" not in event(payload("without_price"))
    assert event(payload("free"))["cost_usd"] == 0
    assert "cost_usd" not in event(payload("free", zero_cost_diagnostic={"reason": "missing_pricing_key"}))
    # As versions before the breakdown wrote it.
    assert event(payload("free", cost_breakdown=...))["cost_usd"] == 0
    assert "cost_usd" not in event(payload("without_price", response_cost_failure_debug_info=...))


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), "0.5", True, 1e12, None])
def test_a_cost_that_cannot_be_is_none(cost: object) -> None:
    assert "cost_usd" not in event(payload("success", response_cost=cost))


def test_the_provider_is_found_in_the_price_entry_or_the_error() -> None:
    assert payload("responses")["custom_llm_provider"] is None
    assert event(payload("responses"))["provider"] == "openai"
    failed = payload("failure", custom_llm_provider=None, model_map_information=None)
    assert event(failed)["provider"] == "openai"


def test_the_billed_tier_is_kept_unless_it_is_the_usual_one() -> None:
    logged = payload("success")
    logged["cost_breakdown"]["service_tier"] = "flex"
    assert event(logged)["service_tier"] == "flex"
    logged["cost_breakdown"]["service_tier"] = "default"
    assert "service_tier" not in event(logged)


def test_the_service_is_a_tag_a_member_of_the_metadata_the_project_or_the_key() -> None:
    logged = payload("success")
    metadata = logged["metadata"]
    metadata["user_api_key_project_alias"] = "of the project"
    assert event(logged)["service"] == "of the project"
    metadata["requester_metadata"] = {"service": "of the requester"}
    assert event(logged)["service"] == "of the requester"
    metadata["spend_logs_metadata"] = {"service": "of the log"}
    assert event(logged)["service"] == "of the log"
    assert event({**logged, "request_tags": ["service: of the tag"]})["service"] == "of the tag"


def test_a_key_is_never_kept_as_it_is() -> None:
    logged = payload("success")
    logged["metadata"]["user_api_key_hash"] = "sk-secret"
    assert event(logged)["api_key_id"] == hashlib.sha256(b"sk-secret").hexdigest()
    assert "sk-secret" not in json.dumps(event(logged))


def test_tags_of_one_name_are_joined_and_too_many_are_all_in_extra() -> None:
    made = event(
        payload("failure", request_tags=["User-Agent: claude-cli", "User-Agent: claude-cli/1.0", "", 7, ":odd"])
    )
    assert made["tags"] == {
        "User-Agent": "claude-cli, claude-cli/1.0",
        "7": "true",
        ":odd": "odd",
        "call_type": "acompletion",
    }
    many = [f"tag-{number}:{number}" for number in range(30)]
    made = event(payload("failure", request_tags=many))
    assert len(made["tags"]) == 20
    assert made["extra"] == {"request_tags": many}


def test_long_texts_are_shortened_and_stay_different() -> None:
    users = [event(payload("success", end_user="u" * 300 + end))["user_id"] for end in "ab"]
    assert users[0] != users[1]
    assert {len(user) for user in users} == {200}
    assert event(payload("success", end_user="a\0b", model=7))["user_id"] == "a\N{REPLACEMENT CHARACTER}b"
    ids = [event(payload("success", id="resp_" + "x" * 300 + end))["event_id"] for end in "ab"]
    assert ids[0] != ids[1]


def test_what_python_writes_and_json_does_not_have_costs_no_request() -> None:
    logged = payload("success", messages=[{"content": "cut \ud83d here, whole \U0001f600"}, float("nan")])
    logged["metadata"]["user_api_key_team_alias"] = "team \U0001f600"
    text = json.dumps(logged).encode()
    assert b"\\ud83d " in text
    assert b"NaN" in text
    assert event(text)["team"] == "team \U0001f600"
    with pytest.raises(Malformed, match="input_tokens"):
        event(payload("success", prompt_tokens=float("nan")))


@pytest.mark.parametrize("odd", ['"' + "\\ud800" * 100_000 + '"', "[" + "NaN," * 100_000 + "-Infinity]"])
def test_much_of_it_costs_no_request_either(odd: str) -> None:
    text = json.dumps(payload("success", messages="here")).replace('"here"', odd)
    assert event(text.encode()) == event(payload("success"))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "as a JSON object"),
        ({}, "startTime: expected a time, came none"),
        ({"startTime": "yesterday", "id": "x"}, "startTime: expected seconds since 1970 or an ISO-8601 time"),
        ({"startTime": 1e300, "id": "x"}, "startTime"),
        ({"startTime": 1, "id": "x"}, "event_time"),
        ({"startTime": NOW.timestamp()}, "id: expected a text, came none"),
        ({"startTime": NOW.timestamp(), "id": "None"}, "id: expected a text, came none"),
        ({"startTime": NOW.timestamp(), "id": "x", "model": "m" * 100_000}, "model: expected at most 65536 bytes"),
        ({"startTime": NOW.timestamp(), "id": "x", "prompt_tokens": -1}, "input_tokens"),
        (
            {"startTime": NOW.timestamp(), "id": "x", "prompt_tokens": "12"},
            'input_tokens: expected a whole number, came "12"',
        ),
    ],
)
def test_what_cannot_be_counted_is_refused_with_its_reason(record: object, reason: str) -> None:
    with pytest.raises(Malformed) as refused:
        event(record)
    assert reason in str(refused.value)


@pytest.mark.parametrize("logged", payloads(), ids=lambda one: f"{one['call_type']}-{one['model']}-{one['status']}")
def test_a_large_record_is_read_like_a_small_one(logged: dict[str, Any]) -> None:
    large = {
        **logged,
        "messages": ["m" * 100_000],
        "response": {**(logged["response"] or {}), "choices": ["c" * 100_000]},
    }
    assert event(large) == event(logged)
    long = {"requester_metadata": {"service": "of the requester", "more": "r" * 100_000}}
    small = {"requester_metadata": {"service": "of the requester"}}
    assert event({**large, "metadata": large["metadata"] | long}) == event(
        {**logged, "metadata": logged["metadata"] | small}
    )
    without = {**large, "metadata": large["metadata"] | {"usage_object": None}, "cost_breakdown": None}
    assert event(without).get("usage") == event(logged).get("usage")


def test_large_members_that_do_not_count_are_passed_over() -> None:
    head = f'{{"id": "x", "startTime": {NOW.timestamp()}, "messages": ['
    bomb = f'{head}{"[]," * 2_000_000}1], "response": {{"choices": [{"{}," * 2_000_000}1]}}}}'
    assert event(bomb.encode())["event_id"] == "x"
    with pytest.raises(Malformed, match="of at most"):
        event_of(b'{"id": "x", "messages": "%b"}' % (b"a" * 30_000_000))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *payload("success"),
        *("request_id", "spend", "api_key", "user", "team_id", "request_duration_ms"),
    ]
)


@given(
    changes=st.dictionaries(NAMES, ANY, max_size=4),
    metadata=st.dictionaries(st.sampled_from([*payload("success")["metadata"]]), ANY, max_size=3),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_json_becomes_an_event_or_a_reason(changes: dict[str, Any], metadata: dict[str, Any]) -> None:
    logged = payload("cached_tokens")
    logged["metadata"] |= metadata
    with suppress(Malformed):
        event({**logged, **changes})


ROW = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
    "spend": "0.00225",
    "total_tokens": "1050",
    "prompt_tokens": "1000",
    "completion_tokens": "50",
    "startTime": (NOW.astimezone(UTC).replace(tzinfo=None)).isoformat(" ") + ".120",
    "endTime": (NOW.astimezone(UTC).replace(tzinfo=None)).isoformat(" ") + ".970",
    "model": "gpt-4o",
    "model_group": "fast",
    "custom_llm_provider": "openai",
    "user": "owner-1",
    "metadata": json.dumps(
        {
            "user_api_key_alias": "chat",
            "user_api_key_team_alias": "search",
            "status": "success",
            "usage_object": {
                "prompt_tokens": 1000,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 800},
            },
        }
    ),
    "cache_hit": "None",
    "request_tags": '["project:apollo"]',
    "team_id": "team-7",
    "end_user": "",
    "messages": "{}",
    "response": "{}",
    "session_id": None,
}


def test_a_row_of_spend_logs_as_text_becomes_the_same_event() -> None:
    made = event(spend_log_item(ROW))
    assert made == {
        "event_id": "chatcmpl-1",
        "source": "litellm",
        "event_time": made["event_time"],
        "user_id": "owner-1",
        "team": "search",
        "service": "chat",
        "provider": "openai",
        "model": "gpt-4o",
        "input_tokens": 1000,
        "output_tokens": 50,
        "usage": {"cache_read_tokens": 800},
        "latency_ms": 850,
        "cost_usd": 0.00225,
        "api_key_id": ROW["api_key"],
        "tags": {"project": "apollo", "call_type": "acompletion", "key_alias": "chat", "model_group": "fast"},
    }
    assert made["event_time"] == NOW.astimezone(UTC).replace(microsecond=120_000).isoformat()


def test_a_row_of_spend_logs_with_types_is_read_as_well() -> None:
    typed = {
        **ROW,
        "spend": 0.00225,
        "prompt_tokens": 1000.0,
        "startTime": NOW,
        "endTime": NOW,
        "metadata": json.loads(ROW["metadata"]),  # type: ignore[arg-type]
        "cache_hit": True,
    }
    made = event(spend_log_item(typed))
    assert (made["cost_usd"], made["input_tokens"], made["latency_ms"]) == (0, 1000, 0)


def test_a_failed_row_of_spend_logs_is_told_by_its_metadata() -> None:
    failed = {"status": "failure", "error_information": {"error_code": "500", "error_class": "InternalServerError"}}
    row = {**ROW, "spend": "0", "prompt_tokens": "0", "completion_tokens": "0", "total_tokens": "0"}
    made = event(spend_log_item({**row, "metadata": json.dumps(failed)}))
    assert (made["error_type"], made["status_code"]) == ("InternalServerError", 500)
    assert "cost_usd" not in made
    with pytest.raises(Malformed, match="metadata: expected JSON"):
        spend_log_item({**row, "metadata": "{"})

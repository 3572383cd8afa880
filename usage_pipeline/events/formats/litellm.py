"""LiteLLM's record of a request -> a usage event (contracts §9): the StandardLoggingPayload of its generic API callback, and a
row of its table LiteLLM_SpendLogs, which names the same things a little differently. Prompts and answers are left out. Pure.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from usage_pipeline import values
from usage_pipeline.events.formats.litellm_usage import tokens_and_units
from usage_pipeline.events.formats.outlines import (
    NONE,
    UNKNOWN,
    fitted,
    object_of,
    outline_reader,
    part_reader,
    text_of,
    value_of,
)
from usage_pipeline.events.ingest.documents import Json
from usage_pipeline.events.ingest.members import MAX_COST_USD, MAX_TAG_NAME_CHARACTERS, MAX_TAGS
from usage_pipeline.events.ingest.model import MAX_LATENCY_MS
from usage_pipeline.values import Malformed

SOURCE = "litellm"
_WHAT = "LiteLLM's record of a request"
_FAILED = "failure"
# What providers call the tier that everybody has.
_USUAL_TIERS = ("default", "standard", "auto")
# How LiteLLM writes that there is none: its ids and cells are made by str().
_NOTHING = ("", "None", "null")
# Columns of LiteLLM_SpendLogs, as a CSV file has them: as text.
_JSON_COLUMNS = ("metadata", "request_tags")
_NUMBER_COLUMNS = ("spend", "total_tokens", "prompt_tokens", "completion_tokens", "request_duration_ms")
_Raw = msgspec.Raw


class _Record(msgspec.Struct, gc=False):
    """Members of the payload, then columns of LiteLLM_SpendLogs that have other names there."""

    id: _Raw = NONE
    litellm_call_id: _Raw = NONE
    call_type: _Raw = NONE
    cache_hit: _Raw = NONE
    status: _Raw = NONE
    custom_llm_provider: _Raw = NONE
    startTime: _Raw = NONE  # noqa: N815  # LiteLLM's name
    endTime: _Raw = NONE  # noqa: N815
    model: _Raw = NONE
    model_group: _Raw = NONE
    metadata: _Raw = NONE
    response_cost: _Raw = NONE
    cost_breakdown: _Raw = NONE
    response_cost_failure_debug_info: _Raw = NONE
    zero_cost_diagnostic: _Raw = NONE
    model_map_information: _Raw = NONE
    model_parameters: _Raw = NONE
    hidden_params: _Raw = NONE
    total_tokens: _Raw = NONE
    prompt_tokens: _Raw = NONE
    completion_tokens: _Raw = NONE
    request_tags: _Raw = NONE
    end_user: _Raw = NONE
    response: _Raw = NONE
    error_information: _Raw = NONE
    request_id: _Raw = NONE
    spend: _Raw = NONE
    api_key: _Raw = NONE
    user: _Raw = NONE
    team_id: _Raw = NONE
    organization_id: _Raw = NONE
    request_duration_ms: _Raw = NONE


class _Metadata(msgspec.Struct, gc=False):
    usage_object: _Raw = NONE
    user_api_key_hash: _Raw = NONE
    user_api_key_alias: _Raw = NONE
    user_api_key_team_alias: _Raw = NONE
    user_api_key_team_id: _Raw = NONE
    team_alias: _Raw = NONE
    team_id: _Raw = NONE
    user_api_key_end_user_id: _Raw = NONE
    user_api_key_user_id: _Raw = NONE
    user_api_key_user_email: _Raw = NONE
    user_api_key_org_alias: _Raw = NONE
    user_api_key_org_id: _Raw = NONE
    user_api_key_project_alias: _Raw = NONE
    user_api_key_project_id: _Raw = NONE
    spend_logs_metadata: _Raw = NONE
    requester_metadata: _Raw = NONE
    # In LiteLLM_SpendLogs these are here.
    status: _Raw = NONE
    error_information: _Raw = NONE
    cost_breakdown: _Raw = NONE
    model_map_information: _Raw = NONE


class _Response(msgspec.Struct, gc=False):
    usage: _Raw = NONE
    service_tier: _Raw = NONE


class _Error(msgspec.Struct, gc=False):
    error_code: _Raw = NONE
    error_class: _Raw = NONE
    llm_provider: _Raw = NONE


class _Priced(msgspec.Struct, gc=False):
    total_cost: _Raw = NONE
    service_tier: _Raw = NONE


class _Named(msgspec.Struct, gc=False):
    """Single members of small objects."""

    service: _Raw = NONE
    user: _Raw = NONE
    litellm_model_name: _Raw = NONE
    litellm_provider: _Raw = NONE
    model_map_value: _Raw = NONE


_read = outline_reader(_Record, _WHAT)
_metadata_in = part_reader(_Metadata)
_response_in = part_reader(_Response)
_error_in = part_reader(_Error)
_priced_in = part_reader(_Priced)
_named_in = part_reader(_Named)
_encode = msgspec.json.Encoder().encode


def event_of(item: Json) -> bytes:
    """The JSON of a payload or of a row -> the JSON of a usage event. Raises Malformed.

    Whatever LiteLLM does not know is `unknown`, or is left out. Texts that are too long are shortened.
    """
    record = _read(item)
    metadata = _metadata_in(record.metadata)
    is_failed = _text("status", record.status, metadata.status) == _FAILED
    is_hit = _is_true("cache_hit", record.cache_hit)
    started, ended = _moment("startTime", record.startTime), _moment("endTime", record.endTime)
    at = started or ended
    if at is None:
        raise Malformed("startTime: expected a time, came none")
    priced = _priced_in(_either(record.cost_breakdown, metadata.cost_breakdown))
    response = _response_in(record.response)
    usage = object_of(value_of("metadata.usage_object", metadata.usage_object))
    if not usage:
        usage = object_of(value_of("response.usage", response.usage))
    told = tuple(
        value_of(name, getattr(record, name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    tags, left_out = _tags(record, metadata, is_hit)
    event: dict[str, Any] = {
        "event_id": _event_id(record, at, is_failed),
        "source": SOURCE,
        "event_time": at.isoformat(),
        "user_id": _text(
            "end_user",
            record.end_user,
            metadata.user_api_key_end_user_id,
            _named_in(record.model_parameters).user,
            metadata.user_api_key_user_id,
            record.user,
            metadata.user_api_key_user_email,
        )
        or UNKNOWN,
        "team": _text(
            "team",
            metadata.user_api_key_team_alias,
            metadata.team_alias,
            metadata.user_api_key_team_id,
            metadata.team_id,
            record.team_id,
        )
        or UNKNOWN,
        "service": _service(metadata, tags),
        "provider": _provider(record, metadata),
        "model": _model(record),
        **tokens_and_units(usage, *told),
    }
    more = {
        "latency_ms": _latency(record, started, ended),
        "cost_usd": _cost(record, metadata, priced, is_failed=is_failed, is_hit=is_hit),
        "service_tier": _tier(priced.service_tier, usage.get("service_tier"), response.service_tier),
        "api_key_id": _key(record, metadata),
        "tags": tags,
        **(_failure(record, metadata) if is_failed else {}),
    }
    event |= {name: value for name, value in more.items() if value not in (None, "", {})}
    if left_out:
        event["extra"] = {"request_tags": left_out}
    return _encode(event)


def spend_log_item(row: Mapping[str, object]) -> bytes:
    """A row of LiteLLM_SpendLogs -> JSON that `event_of` reads. Cells of a CSV file are texts.

    Raises Malformed for a cell that is no JSON where it should be.
    """
    item = dict(row)
    for name in _JSON_COLUMNS:
        if isinstance(text := item.get(name), str):
            item[name] = _decoded(name, text)
    for name in _NUMBER_COLUMNS:
        if isinstance(text := item.get(name), str):
            item[name] = _decoded(name, text.strip() or "null")
    # A column of JSON may have anything in it, and what is not read may be of any type.
    kept = {name: item[name] for name in _Record.__struct_fields__ if name in item and name != "response"}
    return msgspec.json.encode(kept, enc_hook=str)


def _decoded(name: str, text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except values.UNREADABLE_JSON as error:
        raise Malformed(f"{name}: expected JSON, came {values.described(error)}") from None


def _event_id(record: _Record, at: datetime, is_failed: bool) -> str:
    """LiteLLM tries again under the same id, so a failure is told apart by its time as well."""
    ids = (text_of(value_of("id", raw)) for raw in (record.id, record.request_id, record.litellm_call_id))
    known = next((one for one in ids if one not in _NOTHING), None)
    if known is None:
        raise Malformed("id: expected a text, came none")
    return fitted(f"{known}/failure/{int(at.timestamp() * 1000)}") if is_failed else known


def _text(name: str, *raws: msgspec.Raw) -> str:
    """The first of these that is there."""
    return next((text for raw in raws if (text := text_of(value_of(name, raw))) not in _NOTHING), "")


def _either(one: msgspec.Raw, other: msgspec.Raw) -> msgspec.Raw:
    return other if bytes(memoryview(one)[:4]) == b"null" else one


def _is_there(raw: msgspec.Raw) -> bool:
    """Whether it is an object with something in it."""
    begin = bytes(memoryview(raw)[:1])
    return begin == b"{" and memoryview(raw).nbytes > len(b"{}")


def _is_true(name: str, raw: msgspec.Raw) -> bool:
    value = value_of(name, raw)
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _moment(name: str, raw: msgspec.Raw) -> datetime | None:
    """Seconds since 1970, or ISO 8601, in UTC where it has no offset."""
    value = value_of(name, raw)
    if value in (None, ""):
        return None
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise Malformed(f"{name}: expected seconds since 1970 or an ISO-8601 time, came {_shown(raw)}")


def _latency(record: _Record, started: datetime | None, ended: datetime | None) -> int | None:
    took = value_of("request_duration_ms", record.request_duration_ms)
    if started is not None and ended is not None:
        took = round((ended - started).total_seconds() * 1000)
    return took if isinstance(took, int) and 0 <= took <= MAX_LATENCY_MS else None


def _provider(record: _Record, metadata: _Metadata) -> str:
    if provider := _text("custom_llm_provider", record.custom_llm_provider):
        return provider
    error = _error_in(_either(record.error_information, metadata.error_information))
    listed = _named_in(_price_entry(record, metadata)).litellm_provider
    return _text("provider", listed, error.llm_provider) or UNKNOWN


def _price_entry(record: _Record, metadata: _Metadata) -> msgspec.Raw:
    """What LiteLLM's price list has of the model."""
    return _named_in(_either(record.model_map_information, metadata.model_map_information)).model_map_value


def _model(record: _Record) -> str:
    asked = _named_in(record.hidden_params).litellm_model_name
    return _text("model", record.model, asked, record.model_group) or UNKNOWN


def _cost(
    record: _Record, metadata: _Metadata, priced: _Priced, *, is_failed: bool, is_hit: bool
) -> int | float | None:
    """What LiteLLM says. It writes 0 also where it knows no price: such a 0 is none."""
    cost = value_of("response_cost", _either(record.response_cost, record.spend))
    if is_hit:
        return 0
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not math.isfinite(cost):
        return None
    if cost == 0 and (is_failed or not _knows_price(record, metadata, priced)):
        return None
    return cost if 0 <= cost <= MAX_COST_USD else None


def _knows_price(record: _Record, metadata: _Metadata, priced: _Priced) -> bool:
    if _is_there(record.response_cost_failure_debug_info) or _is_there(record.zero_cost_diagnostic):
        return False
    if value_of("cost_breakdown.total_cost", priced.total_cost) is not None:
        return True
    # Older versions have no breakdown.
    return _is_there(_price_entry(record, metadata))


def _tier(billed: msgspec.Raw, used: object, answered: msgspec.Raw) -> str:
    tier = _text("service_tier", billed) or text_of(used) or _text("service_tier", answered)
    return "" if tier in _USUAL_TIERS else tier


def _key(record: _Record, metadata: _Metadata) -> str:
    """The hash by which LiteLLM knows a virtual key; of a key as it is, that hash is made here."""
    key = _text("api_key", metadata.user_api_key_hash, record.api_key)
    return sha256(key.encode()).hexdigest() if key.startswith("sk-") else key


def _failure(record: _Record, metadata: _Metadata) -> dict[str, Any]:
    error = _error_in(_either(record.error_information, metadata.error_information))
    code = _text("error_code", error.error_code)
    return {
        "error_type": _text("error_class", error.error_class) or _FAILED,
        "status_code": int(code) if len(code) == 3 and code.isascii() and code.isdigit() and code >= "100" else None,
    }


def _service(metadata: _Metadata, tags: Mapping[str, str]) -> str:
    return (
        tags.get("service")
        or _text(
            "service",
            _named_in(metadata.spend_logs_metadata).service,
            _named_in(metadata.requester_metadata).service,
            metadata.user_api_key_project_alias,
            metadata.user_api_key_alias,
        )
        or UNKNOWN
    )


def _tags(record: _Record, metadata: _Metadata, is_hit: bool) -> tuple[dict[str, str], list[str]]:
    """Tags by name, and all tags of the sender where some of them are too many."""
    found = value_of("request_tags", record.request_tags)
    sent = [text for one in found if (text := text_of(one))] if isinstance(found, list) else []
    named: dict[str, str] = {}
    for tag in sent:
        name, _, value = (part.strip() for part in tag.partition(":"))
        name, value = fitted(name or tag, MAX_TAG_NAME_CHARACTERS), value or "true"
        named[name] = fitted(f"{named[name]}, {value}" if name in named else value)
    group = _text("model_group", record.model_group)
    ours = {
        "call_type": _text("call_type", record.call_type),
        "cache_hit": "true" if is_hit else "",
        "key_alias": _text("user_api_key_alias", metadata.user_api_key_alias),
        "model_group": "" if group == _text("model", record.model) else group,
        "organization": _text(
            "organization", metadata.user_api_key_org_alias, metadata.user_api_key_org_id, record.organization_id
        ),
        "project": _text("project", metadata.user_api_key_project_alias, metadata.user_api_key_project_id),
    }
    tags = {name: value for name, value in ours.items() if value and name not in named}
    room = MAX_TAGS - len(tags)
    tags |= dict(list(named.items())[:room])
    return tags, sent if len(named) > room else []


def _shown(raw: msgspec.Raw) -> str:
    return values.shown(bytes(raw))

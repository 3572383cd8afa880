"""LiteLLM's record of a request -> a usage event (contracts §9): the StandardLoggingPayload of its generic API callback, and a
row of its table LiteLLM_SpendLogs, which names the same things a little differently. Prompts and answers are left out. Pure.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec

from usage_pipeline import values
from usage_pipeline.events.formats.litellm_usage import tokens_and_units
from usage_pipeline.events.formats.outlines import (
    MAX_MEMBER_BYTES,
    NONE,
    UNKNOWN,
    fitted,
    object_of,
    outline_reader,
    part_reader,
    small_enough,
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
# The user of a master key, which is nobody's.
_NOBODY = "default_user_id"
# Columns of LiteLLM_SpendLogs, as a CSV file has them: as text.
_JSON_COLUMNS = ("metadata", "request_tags")
_NUMBER_COLUMNS = ("spend", "total_tokens", "prompt_tokens", "completion_tokens", "request_duration_ms")
_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_STATUS_CODE = re.compile(r"[1-5][0-9]{2}")
# Python's time.time() as a text.
_STAMPED_HIT = re.compile(r"(.+)_cache_hit[0-9]{9,}(?:\.[0-9]+)?")


class _Record(msgspec.Struct, gc=False):
    """Members of the payload, then columns of LiteLLM_SpendLogs that have other names there."""

    id: Any = None
    litellm_call_id: Any = None
    call_type: Any = None
    cache_hit: Any = None
    status: Any = None
    custom_llm_provider: Any = None
    startTime: Any = None  # noqa: N815  # LiteLLM's name
    endTime: Any = None  # noqa: N815
    model: Any = None
    model_group: Any = None
    response_cost: Any = None
    cost_breakdown: Any = None
    response_cost_failure_debug_info: Any = None
    zero_cost_diagnostic: Any = None
    total_tokens: Any = None
    prompt_tokens: Any = None
    completion_tokens: Any = None
    request_tags: Any = None
    end_user: Any = None
    request_id: Any = None
    spend: Any = None
    api_key: Any = None
    user: Any = None
    team_id: Any = None
    organization_id: Any = None
    request_duration_ms: Any = None
    # Large, or seldom needed.
    metadata: msgspec.Raw = NONE
    error_information: msgspec.Raw = NONE
    model_parameters: msgspec.Raw = NONE
    hidden_params: msgspec.Raw = NONE
    model_map_information: msgspec.Raw = NONE
    response: msgspec.Raw = NONE


# Of the metadata, which may have anything that a client sends along.
_METADATA = (
    *("usage_object", "user_api_key_hash", "user_api_key_alias", "user_api_key_team_alias", "user_api_key_team_id"),
    *("team_alias", "team_id", "user_api_key_end_user_id", "user_api_key_user_id", "user_api_key_user_email"),
    *("user_api_key_org_alias", "user_api_key_org_id", "user_api_key_project_alias", "user_api_key_project_id"),
    *("spend_logs_metadata", "requester_metadata"),
    # In LiteLLM_SpendLogs these are here.
    *("status", "error_information", "cost_breakdown", "model_map_information"),
)
# Of objects that clients fill, only these members.
_OF_CLIENTS = {"spend_logs_metadata": ("service",), "requester_metadata": ("service",)}
# Of those that are seldom needed.
_PARTS = {
    "error_information": ("error_code", "error_class", "llm_provider"),
    "model_parameters": ("user",),
    "hidden_params": ("litellm_model_name",),
    "model_map_information": ("model_map_value",),
    "response": ("usage", "service_tier"),
}


def _struct(name: str, names: tuple[str, ...], kind: Any = msgspec.Raw, default: Any = NONE) -> Any:
    return msgspec.defstruct(name, [(one, kind, default) for one in names], gc=False)


_read_small = outline_reader(_Record, _WHAT)
_read_large = outline_reader(_struct("_LargeRecord", _Record.__struct_fields__), _WHAT)
_large_metadata_in = part_reader(_struct("_LargeMetadata", _METADATA))
_metadata_in = part_reader(_struct("_Metadata", _METADATA, Any, None))
_parts_in = {name: part_reader(_struct("_Part", names)) for name, names in _PARTS.items()}
_listed_in = part_reader(_struct("_Listed", ("litellm_provider",)))
_of_client_in = {name: part_reader(_struct("_OfClient", names)) for name, names in _OF_CLIENTS.items()}
_encode = msgspec.json.Encoder().encode


def event_of(item: Json) -> bytes:
    """The JSON of a payload or of a row -> the JSON of a usage event. Raises Malformed.

    Whatever LiteLLM does not know is `unknown`, or is left out. Texts that are too long are shortened.
    """
    record = _read_small(item if memoryview(item).nbytes <= MAX_MEMBER_BYTES else _reduced(item))
    metadata = _metadata_in(record.metadata)
    is_failed = _text(record.status, metadata.status) == _FAILED
    is_hit = record.cache_hit is True or _text(record.cache_hit).lower() == "true"
    started, ended = _moment("startTime", record.startTime), _moment("endTime", record.endTime)
    at = started or ended
    if at is None:
        raise Malformed("startTime: expected a time, came none")
    priced = object_of(record.cost_breakdown) or object_of(metadata.cost_breakdown)
    usage = object_of(metadata.usage_object) or object_of(_inside(record, "response", "usage"))
    tags, left_out = _tags(record, metadata, is_hit)
    event: dict[str, Any] = {
        "event_id": _event_id(record, started, ended, is_failed),
        "source": SOURCE,
        "event_time": at.isoformat(),
        "user_id": _text(record.end_user, metadata.user_api_key_end_user_id)
        # What the SDK calls user, which has no keys of its own.
        or _text(_inside(record, "model_parameters", "user"))
        or _owner(record, metadata)
        or UNKNOWN,
        "team": _text(
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
        **tokens_and_units(usage, record.prompt_tokens, record.completion_tokens, record.total_tokens),
    }
    more = {
        "latency_ms": _latency(record, started, ended),
        "cost_usd": _cost(record, metadata, priced, is_failed=is_failed, is_hit=is_hit),
        "service_tier": _tier(
            # Older versions have no breakdown.
            *(
                (priced.get("service_tier"),)
                if priced
                else (usage.get("service_tier"), _inside(record, "response", "service_tier"))
            )
        ),
        "api_key_id": _key(record, metadata),
        "tags": tags,
        **(_failure(record, metadata) if is_failed else {}),
    }
    event |= {name: value for name, value in more.items() if value not in (None, "", {})}
    if left_out:
        event["extra"] = {"request_tags": left_out}
    return _encode(event)


def _reduced(item: Json) -> bytes:
    """A large record without what is not read. So little is decoded of it, whatever is in it. Raises Malformed."""
    record = _read_large(item)
    members: dict[str, Any] = {}
    for name in _Record.__struct_fields__:
        raw = getattr(record, name)
        if name in _PARTS:
            found = _parts_in[name](raw)
            members[name] = {one: small_enough(f"{name}.{one}", getattr(found, one)) for one in _PARTS[name]}
        elif name == "metadata" and memoryview(raw).nbytes > MAX_MEMBER_BYTES:
            found = _large_metadata_in(raw)
            members[name] = {one: _part(one, getattr(found, one)) for one in _METADATA}
        else:
            members[name] = small_enough(name, raw)
    return _encode(members)


def _part(name: str, raw: msgspec.Raw) -> Any:
    if name in _OF_CLIENTS and memoryview(raw).nbytes > MAX_MEMBER_BYTES:
        found = _of_client_in[name](raw)
        return {one: small_enough(f"{name}.{one}", getattr(found, one)) for one in _OF_CLIENTS[name]}
    return small_enough(name, raw)


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


def _event_id(record: _Record, started: datetime | None, ended: datetime | None, is_failed: bool) -> str:
    """LiteLLM tries again under the same id, so a failure is told apart by its time as well.

    A hit in its cache has the id of the answer, with the moment at which it was logged: another one in the callback than in the
    table. In its place comes when the request began and ended, which are the same in both.
    """
    known = _text(record.id, record.request_id, record.litellm_call_id)
    if not known:
        raise Malformed("id: expected a text, came none")
    times = [_milliseconds(at) for at in (started, ended) if at is not None]
    if hit := _STAMPED_HIT.fullmatch(known):
        return fitted("/".join((hit[1], "cache_hit", *map(str, times))))
    return fitted(f"{known}/failure/{times[0]}") if is_failed else known


def _milliseconds(at: datetime) -> int:
    """Since 1970, as LiteLLM's table has a time: without what is below. So both have one id and one latency of a request."""
    return (at - _EPOCH) // _MILLISECOND


def _text(*found: object) -> str:
    """The first of these that is a text or a number; an empty one if none is."""
    for one in found:
        if one is not None and (text := text_of(one)) not in _NOTHING:
            return text
    return ""


def _inside(record: _Record, name: str, member: str) -> Any:
    """A member of one of those members that are seldom needed."""
    return value_of(f"{name}.{member}", getattr(_parts_in[name](getattr(record, name)), member))


def _moment(name: str, value: Any) -> datetime | None:
    """Seconds since 1970, or ISO 8601, in UTC where it has no offset."""
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
    came = values.shown(str(value).encode(errors="backslashreplace"))
    raise Malformed(f"{name}: expected seconds since 1970 or an ISO-8601 time, came {came}")


def _latency(record: _Record, started: datetime | None, ended: datetime | None) -> int | None:
    took = record.request_duration_ms
    if started is not None and ended is not None:
        took = _milliseconds(ended) - _milliseconds(started)
    return took if isinstance(took, int) and 0 <= took <= MAX_LATENCY_MS else None


def _provider(record: _Record, metadata: Any) -> str:
    if provider := _text(record.custom_llm_provider):
        return provider
    listed = value_of("litellm_provider", _listed_in(_price_entry(record, metadata)).litellm_provider)
    return _text(listed, _error(record, metadata).get("llm_provider")) or UNKNOWN


def _price_entry(record: _Record, metadata: Any) -> msgspec.Raw:
    """What LiteLLM's price list has of the model."""
    in_metadata = object_of(metadata.model_map_information)
    raw = msgspec.Raw(_encode(in_metadata)) if in_metadata else record.model_map_information
    entry: msgspec.Raw = _parts_in["model_map_information"](raw).model_map_value
    return entry


def _model(record: _Record) -> str:
    return (
        _text(record.model)
        or _text(_inside(record, "hidden_params", "litellm_model_name"), record.model_group)
        or UNKNOWN
    )


def _error(record: _Record, metadata: Any) -> dict[str, Any]:
    found = {name: _inside(record, "error_information", name) for name in _PARTS["error_information"]}
    return found if any(found.values()) else object_of(metadata.error_information)


def _cost(
    record: _Record, metadata: Any, priced: Mapping[str, Any], *, is_failed: bool, is_hit: bool
) -> int | float | None:
    """What LiteLLM says. It writes 0 also where it knows no price: such a 0 is none."""
    if is_hit:
        return 0
    cost = record.spend if record.response_cost is None else record.response_cost
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost <= MAX_COST_USD:
        return None
    return None if cost == 0 and (is_failed or not _knows_price(record, metadata, priced)) else cost


def _knows_price(record: _Record, metadata: Any, priced: Mapping[str, Any]) -> bool:
    if record.response_cost_failure_debug_info or record.zero_cost_diagnostic:
        return False
    if priced.get("total_cost") is not None:
        return True
    return bytes(memoryview(_price_entry(record, metadata))[:1]) == b"{"


def _tier(*found: object) -> str:
    tier = _text(*found)
    return "" if tier in _USUAL_TIERS else tier


def _owner(record: _Record, metadata: Any) -> str:
    owner = _text(metadata.user_api_key_user_id, record.user, metadata.user_api_key_user_email)
    return "" if owner == _NOBODY else owner


def _key(record: _Record, metadata: Any) -> str:
    """The hash by which LiteLLM knows a virtual key; of a key as it is, that hash is made here."""
    key = _text(metadata.user_api_key_hash, record.api_key)
    return sha256(key.encode()).hexdigest() if key.startswith("sk-") else key


def _failure(record: _Record, metadata: Any) -> dict[str, Any]:
    error = _error(record, metadata)
    code = _text(error.get("error_code"))
    return {
        "error_type": _text(error.get("error_class")) or _FAILED,
        "status_code": int(code) if _STATUS_CODE.fullmatch(code) else None,
    }


def _service(metadata: Any, tags: Mapping[str, str]) -> str:
    return (
        tags.get("service")
        or _text(
            object_of(metadata.spend_logs_metadata).get("service"),
            object_of(metadata.requester_metadata).get("service"),
            metadata.user_api_key_project_alias,
            metadata.user_api_key_alias,
        )
        or UNKNOWN
    )


def _tags(record: _Record, metadata: Any, is_hit: bool) -> tuple[dict[str, str], list[str]]:
    """Tags by name, and all tags of the sender where some of them are too many."""
    found = record.request_tags
    sent = [text for one in found if (text := text_of(one))] if isinstance(found, list) else []
    named: dict[str, str] = {}
    for tag in sent:
        name, _, value = (part.strip() for part in tag.partition(":"))
        name, value = fitted(name or tag, MAX_TAG_NAME_CHARACTERS), value or "true"
        named[name] = fitted(f"{named[name]}, {value}" if name in named else value)
    group = _text(record.model_group)
    ours = {
        "call_type": _text(record.call_type),
        "cache_hit": "true" if is_hit else "",
        "key_alias": _text(metadata.user_api_key_alias),
        "model_group": "" if group == _text(record.model) else group,
        "organization": _text(metadata.user_api_key_org_alias, metadata.user_api_key_org_id, record.organization_id),
        "project": _text(metadata.user_api_key_project_alias, metadata.user_api_key_project_id),
    }
    tags = {name: value for name, value in ours.items() if value and name not in named}
    room = MAX_TAGS - len(tags)
    tags |= dict(list(named.items())[:room])
    return tags, sent if len(named) > room else []

"""CloudEvents 1.0 -> usage events (contracts §9): `data` has the members of an event, id and source are those of the envelope.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, with its JSON format and its HTTP binding. Pure; no I/O.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping

import msgspec

from usage_pipeline import values
from usage_pipeline.events.formats.outlines import NONE, UNKNOWN, outline_reader, value_of
from usage_pipeline.events.ingest.documents import Json
from usage_pipeline.events.ingest.model import MAX_EVENT_BYTES, UsageEvent
from usage_pipeline.values import UNREADABLE_JSON, Malformed

_VERSION = "1.0"
# What a sender may not know.
_MAY_BE_UNKNOWN = ("user_id", "team", "service")
_Raw = msgspec.Raw


class _Envelope(msgspec.Struct, gc=False):
    """Attributes that count; extensions are passed over."""

    specversion: _Raw = NONE
    id: _Raw = NONE
    source: _Raw = NONE
    type: _Raw = NONE
    time: _Raw = NONE
    datacontenttype: _Raw = NONE
    data: _Raw = NONE
    data_base64: _Raw = NONE


_read = outline_reader(_Envelope, "a CloudEvent")
# Members that no event has end it: of them there may be a million.
_members_in = msgspec.json.Decoder(
    msgspec.defstruct(
        "Members",
        [(name, _Raw, msgspec.UNSET) for name in UsageEvent.__struct_fields__],
        forbid_unknown_fields=True,
        gc=False,
    )
).decode
_encode = msgspec.json.Encoder().encode


def event_of(item: Json) -> bytes:
    """The JSON of a CloudEvent, structured -> the JSON of a usage event. Raises Malformed."""
    envelope = _read(item)
    attributes = {
        name: value_of(name, getattr(envelope, name))
        for name in ("specversion", "id", "source", "type", "time", "datacontenttype")
    }
    is_text = bytes(memoryview(envelope.data_base64)[:1]) == b'"'
    return event_of_data(_unpacked(envelope.data_base64) if is_text else envelope.data, attributes)


def event_of_data(data: Json, attributes: Mapping[str, object]) -> bytes:
    """The same of data, and of attributes beside them, as the binary mode of HTTP has them."""
    version = attributes.get("specversion")
    if version != _VERSION:
        raise Malformed(f"specversion: expected {_VERSION}, came {_shown(version)}")
    named = {name: _required(name, attributes.get(name)) for name in ("id", "source", "type")}
    _expect_json(attributes.get("datacontenttype"))
    size = memoryview(data).nbytes
    if size > MAX_EVENT_BYTES:
        raise Malformed(f"data: expected at most {MAX_EVENT_BYTES} bytes, came {size}")
    try:
        found = _members_in(data)
    except UNREADABLE_JSON as error:
        raise Malformed(f"data: expected the members of a usage event, came {values.described(error)}") from None
    members = {name: text for name in found.__struct_fields__ if (text := getattr(found, name)) is not msgspec.UNSET}
    for member, attribute in (("event_id", "id"), ("source", "source")):
        inside = value_of(f"data.{member}", members.get(member, NONE))
        if inside not in (None, "", named[attribute]):
            raise Malformed(
                f"data.{member}: expected the {attribute} of the CloudEvent, or none, came {_shown(inside)}"
            )
        members[member] = _Raw(_encode(named[attribute]))
    for name in _MAY_BE_UNKNOWN:
        if _is_null(members.get(name, NONE)):
            members[name] = _Raw(_encode(UNKNOWN))
    if _is_null(members.get("event_time", NONE)):
        if (time := attributes.get("time")) is None:
            raise Malformed("time: expected the time of the event, here or as data.event_time, came none")
        members["event_time"] = _Raw(_encode(time))
    return _encode(members)


def _required(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise Malformed(f"{name}: expected a text, came {_shown(value)}")
    return value


def _expect_json(media_type: object) -> None:
    if media_type in (None, ""):
        return
    name = str(media_type).partition(";")[0].strip().lower()
    if name not in ("application/json", "text/json") and not name.endswith("+json"):
        raise Malformed(f"datacontenttype: expected application/json or none, came {_shown(media_type)}")


def _unpacked(text: msgspec.Raw) -> bytes:
    try:
        return b64decode(msgspec.json.decode(text, type=str), validate=True)
    except (*UNREADABLE_JSON, binascii.Error, ValueError) as error:
        raise Malformed(f"data_base64: expected base64, came {values.described(error)}") from None


def _is_null(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:4]) == b"null"


def _shown(value: object) -> str:
    return "none" if value is None else values.shown(str(value).encode(errors="backslashreplace"))

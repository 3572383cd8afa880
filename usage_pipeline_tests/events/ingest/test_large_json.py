"""Large JSON that is looked through and stored piece by piece is what a decoder makes of it as a whole."""

import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.ingest import documents, json_scan, large_json, long_texts
from usage_pipeline.events.ingest.documents import TooLargeItem, items_in, items_of
from usage_pipeline.events.ingest.flat_objects import flat_object
from usage_pipeline.events.ingest.large_json import stored_json
from usage_pipeline.events.ingest.model import (
    MAX_EVENT_BYTES,
    MAX_EXTRA_CHARACTERS,
    MAX_PROMPT_CHARACTERS,
    EventWindow,
    parse_event,
)
from usage_pipeline.values import UNREADABLE_JSON, Malformed, storable_json
from usage_pipeline_tests.rigs.events import NOW, event

_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | st.sampled_from(
    ['"', "\\", "}", "😀"]
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=20,
)
_OBJECTS = st.dictionaries(_TEXTS, _VALUES, max_size=5)


@given(_OBJECTS, st.booleans(), st.sampled_from([None, 1]), st.integers(12, 60))
def test_any_object_in_any_pieces_is_stored_as_it_would_be_whole(
    members: dict[str, Any], is_ascii: bool, indent: int | None, piece: int
) -> None:
    written = msgspec.Raw(json.dumps(members, ensure_ascii=is_ascii, indent=indent).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_json, "PIECE_BYTES", piece)
        patch.setattr(long_texts, "PIECE_BYTES", piece)
        assert stored_json("extra", written) == storable_json(members, "extra")


@pytest.mark.parametrize(
    "text", [b"[]", b'"a"', b'{"a":[1,]}', b'{"a":[1 2]}', b'{"a":"' + b"\xff" * 80_000 + b'"}', b'{"a":tru}']
)
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(UNREADABLE_JSON):
        stored_json("extra", msgspec.Raw(text))


def test_a_nul_is_refused_and_null_is_none() -> None:
    with pytest.raises(Malformed, match="extra: expected no NUL"):
        stored_json("extra", msgspec.Raw(b'{"a":["' + b"a" * 80_000 + rb'\u0000"]}'))
    assert stored_json("extra", msgspec.Raw(b"null")) is None


_FLAT = st.dictionaries(_TEXTS, st.none() | st.booleans() | st.integers() | _TEXTS, min_size=1, max_size=5)


@given(_FLAT, st.booleans(), st.sampled_from([None, 1]), st.integers(12, 60), st.text(']}, "[{', max_size=4))
def test_the_members_of_a_flat_object_are_found_in_any_steps(
    members: dict[str, Any], is_ascii: bool, indent: int | None, step: int, after: str
) -> None:
    written = json.dumps(members, ensure_ascii=is_ascii, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "STEP_BYTES", step)
        found = flat_object(b"xy" + written + after.encode(), 2)
    assert found is not None
    assert found.end == 2 + len(written)
    whole = b"xy" + written
    assert {name: json.loads(whole[first:end]) for name, (first, end) in found.members.items()} == members


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"a":[]}', b'{"a":{}}', b'{"a":"b', b'{"a" "b"}', b'{"a":1,}', b'{"a":1 2}']
)
def test_what_is_no_flat_object_is_none(text: bytes) -> None:
    assert flat_object(text) is None


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "WINDOW_BYTES", 64)
    monkeypatch.setattr(documents, "LONG_ITEM_BYTES", 128)
    monkeypatch.setattr(documents, "MOST_DECODED_BYTES", 256)
    monkeypatch.setattr(json_scan, "STEP_BYTES", 50)


@pytest.mark.usefixtures("small_steps")
def test_a_long_item_among_others_is_found_without_decoding_it() -> None:
    long = json.dumps({"a": "},{" * 200, "b": "\ud800" * 100}).encode()
    for items in ([long], [b'{"a": 1}', long, b'{"b": 2}'], [long, long], [b'{"a": 1}'] * 30 + [long]):
        document = b"[" + b" ,\n".join(items) + b" ]"
        assert [bytes(one) for one in items_of(document, "archives", most_bytes=10_000)] == items
        assert list(items_in(document, "archives")) == items


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("end", [b",]", b"]]", b" 1]", b"", b",,{}]"])
def test_a_document_with_a_long_item_must_be_whole(end: bytes) -> None:
    document = b'[{"a": "' + b"x" * 1_000 + b'"}' + end
    with pytest.raises(Malformed):
        items_of(document, "archives", most_bytes=10_000)


@pytest.mark.usefixtures("small_steps")
def test_a_long_item_of_other_things_than_texts_is_refused_by_the_service_only() -> None:
    items = [b'{"a": [' + b"1," * 500 + b"1]}", b'{"b": 2}']
    document = b"[" + b",".join(items) + b"]"
    with pytest.raises(TooLargeItem, match="objects of texts"):
        items_of(document, "archives", most_bytes=10_000)
    assert list(items_in(document, "archives")) == items


@pytest.mark.parametrize("extra", ['{"a":["', '{"a":[{"b":"'])
def test_the_longest_event_that_keeps_the_rules_is_one(extra: str) -> None:
    """As JSON may write it at its longest: 24 MB, of which the extra members are no flat object."""
    escape = "\\ud83d\\ude00"
    end = {'{"a":["': '"]}', '{"a":[{"b":"': '"}]}'}[extra]
    text = json.dumps(event(prompt="here"))[:-1].replace('"here"', f'"{escape * MAX_PROMPT_CHARACTERS}"')
    members = f"{extra}{escape * (MAX_EXTRA_CHARACTERS - len(extra + end))}{end}"
    document = f'[{text}, "extra": {members}}}]'.encode()
    assert len(document) > 23_900_000
    [item] = items_of(document, "events", most=1_000, most_bytes=MAX_EVENT_BYTES)
    row = parse_event(item, EventWindow(NOW - timedelta(days=1), NOW, "")).payload.split(b"\t")
    assert [len(column.decode()) for column in row[-2:]] == [MAX_PROMPT_CHARACTERS, MAX_EXTRA_CHARACTERS]

"""Documents of items: an array, or an object with one member; anything else is refused as a whole."""

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.events.ingest import documents
from usage_pipeline.events.ingest.documents import Timely, TooLargeItem, TooManyItems, items_in, items_of, lines_of
from usage_pipeline.values import Malformed


@pytest.mark.parametrize("document", [b'[{"a": 1}, 2]', b' \n{"events": [{"a": 1}, 2]}', b'\t[{"a": 1},2]\n'])
def test_items_come_out_as_they_went_in(document: bytes) -> None:
    assert [bytes(item) for item in items_of(document, "events")] == [b'{"a": 1}', b"2"]


def test_an_item_with_a_fault_does_not_cost_its_neighbours() -> None:
    document = b'[{"event_id": "x"}, {"a": 1e400000}, "\xff", "\\ud800", 3]'
    assert [bytes(item) for item in items_of(document, "events")][1:] == [
        b'{"a": 1e400000}',
        b'"\xff"',
        b'"\\ud800"',
        b"3",
    ]


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b'{"events": 1}', b'{"archives": []}', b'{"events": [], "x": 1}', b"1", b"[1", b"null", b'["\xff"'],
)
def test_another_document_is_refused_with_what_was_expected(document: bytes) -> None:
    with pytest.raises(Malformed, match=r"body: expected a JSON array, or an object \{\"events\": \[…\]\}, came"):
        items_of(document, "events")


def test_an_object_with_an_event_id_is_a_single_item() -> None:
    item = b' {"event_id": "x", "extra": {"events": []}}\n'
    assert [bytes(one) for one in items_of(item, "events", most=1, most_bytes=100)] == [item]
    assert list(items_in(item, "events")) == [item]


def test_lines_come_out_one_by_one_and_empty_ones_are_none() -> None:
    document = b'\n{"a": 1}\r\n \t\nnonsense\n\xff\n[1]'
    assert [bytes(line).strip() for line in lines_of(document)] == [b'{"a": 1}', b"nonsense", b"\xff", b"[1]"]
    assert list(lines_of(b"")) == list(lines_of(b" \n\n ")) == []


def test_lines_have_the_limits_of_items() -> None:
    assert len(lines_of(b"1\n2\n\n", most=2, most_bytes=1)) == 2
    with pytest.raises(TooManyItems, match="expected at most 2 items, came more"):
        lines_of(b"1\n2\n3", most=2)
    with pytest.raises(TooLargeItem, match="expected lines of at most 2 bytes, came one of 3"):
        lines_of(b"1\n123\n", most_bytes=2)


def test_no_items_are_no_fault() -> None:
    assert items_of(b"[]", "events") == items_of(b'{"events":[]}', "events") == []


@pytest.mark.parametrize("document", ['["\\ud800", 1 , [2]]', ' {"events" : ["\\ud800" ,1, [2] ] } '])
def test_half_a_surrogate_pair_costs_only_its_own_item(document: str) -> None:
    assert [bytes(item) for item in items_of(document.encode(), "events")] == [b'"\\ud800"', b"1", b"[2]"]


@pytest.mark.parametrize("end", ["", ",]", "] 1", "]}", "}"])
def test_a_document_with_such_an_item_must_end_like_any_other(end: str) -> None:
    with pytest.raises(Malformed, match="came one that cannot be read"):
        items_of(f'["\\ud800"{end}'.encode(), "events")


_TEXTS = st.text(max_size=5) | st.sampled_from(["},{", '"},{"', "\\", "\ud800", "]", "[", "NaN", "\\ud800"])
_VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=12,
)
_ITEMS = st.lists(st.dictionaries(_TEXTS, _VALUES, min_size=1, max_size=3) | _VALUES, max_size=6)


@given(_ITEMS, st.sampled_from([",", " ,\n", ", "]), st.booleans(), st.booleans(), st.integers(8, 200))
def test_a_document_is_split_where_the_writer_put_its_commas_whatever_the_windows(
    items: list[Any], comma: str, is_wrapped: bool, is_indented: bool, window: int
) -> None:
    written = [json.dumps(item, indent=1 if is_indented else None) for item in items]
    document = f" [ {comma.join(written)} ]\n"
    if is_wrapped:
        document = f' {{ "events" :{document}}} '
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "WINDOW_BYTES", window)
        patch.setattr(documents, "WHOLE_BYTES", window)
        whole = document.encode()
        assert [bytes(item) for item in items_of(whole, "events")] == [one.encode() for one in written]
        assert list(items_in(whole, "events")) == [one.encode() for one in written]
        with pytest.raises(Malformed):
            items_of(whole.rstrip()[:-1], "events")
        if len(items) > 1:
            with pytest.raises(TooManyItems):
                items_of(whole, "events", most=len(items) - 1)


def test_an_item_with_half_a_surrogate_pair_costs_only_itself_in_a_large_document() -> None:
    good = b'{"a": "%b"}' % (b"x" * 1_000)
    document = b"[" + b",".join([good] * 2_000 + [b'{"a": "\\ud800"}', b'{"a": NaN}'] + [good] * 2_000) + b"]"
    items = items_of(document, "events", most=5_000)
    assert len(items) == 4_002
    assert [bytes(one) for one in items[2_000:2_002]] == [b'{"a": "\\ud800"}', b'{"a": NaN}']


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,", b'"ab",', b'"\\ud800",'])
def test_a_large_item_makes_no_objects_of_its_values(value: bytes) -> None:
    """10 MB of `[],` were 240 MB of lists, made by the standard library while every other thread waited."""
    document = b'[{"prompt": "\\ud800", "extra": {"a": [' + value * (10 * 2**20 // len(value)) + b"1]}}]"
    tracemalloc.start()
    assert len(items_of(document, "events", most=1_000)) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * len(document)


def test_an_item_whose_end_is_too_far_away_is_refused() -> None:
    document = b'[{"a": [' + b"[]," * 3_000_000 + b"1]}, {}]"
    with pytest.raises(TooLargeItem, match="expected items of at most 2000000 bytes"):
        items_of(document, "events", most_bytes=2_000_000)


def test_a_part_of_timely_items_has_the_same_deadline() -> None:
    items = Timely([b"1", b"2", b"3"], time.monotonic() + 60)
    assert [*items[1:]] == [b"2", b"3"]
    late = Timely([b"1", b"2", b"3"], time.monotonic() - 1)[1:]
    assert len(late) == 2
    with pytest.raises(TimeoutError):
        late[0]

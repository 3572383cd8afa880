"""Documents of items: an array, or an object with one member; anything else is refused as a whole."""

import pytest

from usage_pipeline.events.ingest.documents import items_of
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


def test_no_items_are_no_fault() -> None:
    assert items_of(b"[]", "events") == items_of(b'{"events":[]}', "events") == []


@pytest.mark.parametrize("document", ['["\\ud800", 1 , [2]]', ' {"events" : ["\\ud800" ,1, [2] ] } '])
def test_half_a_surrogate_pair_costs_only_its_own_item(document: str) -> None:
    assert [bytes(item) for item in items_of(document.encode(), "events")] == [b'"\\ud800"', b"1", b"[2]"]


@pytest.mark.parametrize("end", ["", ",]", "] 1", "]}", "}"])
def test_a_document_with_such_an_item_must_end_like_any_other(end: str) -> None:
    with pytest.raises(Malformed, match="came one that cannot be read"):
        items_of(f'["\\ud800"{end}'.encode(), "events")

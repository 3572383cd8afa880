"""Whatever bytes a file has, and whatever cells a row: an event or a reason, and no other end."""

import io
import json
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usage_pipeline.events.files.loading import Loaded, Source, _items
from usage_pipeline.events.files.making import Maker
from usage_pipeline.events.files.names import FORMATS, FileKind, Format
from usage_pipeline.events.files.packed import BrokenFile
from usage_pipeline.events.ingest.batches import ARCHIVES, EVENTS, Kind
from usage_pipeline.events.ingest.model import EventWindow, parse_event
from usage_pipeline.settings import load_settings
from usage_pipeline.values import Malformed
from usage_pipeline_tests.events.files.writing import as_csv
from usage_pipeline_tests.rigs.events import NOW, event

WINDOW = EventWindow.around(NOW, load_settings())
DEEP = "[" * 2_000 + "]" * 2_000
COLUMNS = (
    "event_id",
    "event_time",
    "user_id",
    "input_tokens",
    "cost_usd",
    "tags",
    "extra",
    "usage",
    "tags.a",
    "extra.b",
)
CELLS = st.sampled_from(
    [
        *("", "nan", "1e400", "9" * 400, "-1", "{}", '{"a": "\\ud800"}', "{'a': {1}}", "{(1,): 2}", "{'a': 1j}"),
        *("{'a': b'x'}", f'{{"a": {DEEP}}}', DEEP, '{"a": NaN}', "{'a': '\\ud800'}", f"{{'a': {'9' * 5_000}}}"),
    ]
)


def read(content: bytes, kind: FileKind, holds: Kind = EVENTS, row_format: Format | None = None) -> int:
    """How many items came. Each is an event, or a reason; the file may end with one."""
    count = 0
    try:
        for _, item in _items(io.BytesIO(content), Source("x", kind, holds, row_format), Loaded(), 2**20):
            count += 1
            assert isinstance(item.kept, bytes)
            if isinstance(item.made, bytes) and holds is EVENTS:
                with suppress(Malformed):
                    parse_event(item.made, WINDOW)
    except BrokenFile:
        pass
    return count


@given(st.binary() | st.text().map(str.encode), st.sampled_from([EVENTS, ARCHIVES]))
@example(b"\r\r\na\rb", EVENTS)
@example(b"sep=\n", EVENTS)
@example(b"sep=\x00\na\x00b\n", EVENTS)
@example(b'sep="\na,b\n', EVENTS)
@example(b"x" * 200_000, EVENTS)
def test_any_bytes_as_csv(content: bytes, holds: Kind) -> None:
    for row_format in (None, *FORMATS):
        read(content, FileKind("csv"), holds, row_format)
        read(b"event_time,user_id\n" + content, FileKind("csv"), holds, row_format)


@given(st.lists(st.tuples(*[CELLS | st.text() for _ in COLUMNS]), max_size=3))
def test_any_cells(rows: list[tuple[str, ...]]) -> None:
    clean = [[cell.encode(errors="replace").decode() for cell in row] for row in rows]
    read(as_csv([dict(zip(COLUMNS, row, strict=True)) for row in clean]), FileKind("csv"), row_format="events")


@pytest.mark.parametrize("row_format", FORMATS)
@given(
    cells=st.dictionaries(
        st.sampled_from([*COLUMNS, "metadata", "request_id", "startTime", "results"]), CELLS, max_size=5
    )
)
def test_any_row_of_each_format(row_format: Format, cells: dict[str, Any]) -> None:
    maker = Maker(row_format)
    for made in [*maker.of_json(json.dumps(cells).encode()), *maker.of_table(list(cells))(cells)]:
        if isinstance(made, bytes):
            with suppress(Malformed):
                parse_event(made, WINDOW)


def test_a_value_that_is_nested_too_deeply_in_parquet_costs_its_row_alone() -> None:
    column: Any = pa.array([1, 2])
    for _ in range(60):
        column = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), column)
    times = pa.array([event()["event_time"]] * 2)
    file = io.BytesIO()
    pq.write_table(pa.table({"event_time": times, "extra": column}), file)
    assert read(file.getvalue(), FileKind("parquet")) in (0, 2)

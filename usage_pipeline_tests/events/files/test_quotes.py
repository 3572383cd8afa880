"""Quotes in CSV that are not meant as such: no row inside of them is lost in silence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.events.files.loading import Loaded
from usage_pipeline.settings import Settings
from usage_pipeline_tests.events.files.test_kinds import load
from usage_pipeline_tests.events.files.writing import as_csv
from usage_pipeline_tests.rigs.events import event

Load = Callable[..., Loaded]
COLUMNS = ("event_id", "event_time", "user_id", "team", "service", "provider", "model", "input_tokens", "prompt")


@pytest.fixture
def loaded(tmp_path: Path, postgres: psycopg.Connection, settings: Settings) -> Load:
    def of(content: str) -> Loaded:
        (tmp_path / "a.csv").write_text(content)
        return load(postgres, settings, tmp_path / "a.csv")

    return of


def plain(*prompts: str, **cells: Any) -> str:
    """Rows whose prompts are written as they are."""
    rows = [event(event_id=f"e{number}", prompt=prompt, **cells) for number, prompt in enumerate(prompts, start=1)]
    return "\n".join([",".join(COLUMNS), *(",".join(str(row[name]) for name in COLUMNS) for row in rows)]) + "\n"


def test_a_quote_that_the_next_quoted_cell_ends_is_told_with_its_line(loaded: Load) -> None:
    done = loaded(plain("hi", '"hello', *["hi"] * 47, '"bye"', "hi"))
    assert done.inserted == 1
    assert "line 3: expected CSV" in str(done.reason)
    assert "(line 51)" in str(done.reason)
    assert "Nothing from line 3 on was read" in str(done.reason)


@pytest.mark.parametrize("end", ['5 inch"', 'a ""b"" c"'])
@pytest.mark.parametrize("between", [0, 1, 200])
def test_a_quote_that_ends_at_the_end_of_a_row_swallows_no_rows(end: str, between: int, loaded: Load) -> None:
    done = loaded(plain("hi", '"hello', *["hi"] * between, end, "hi"))
    assert (done.reason, done.inserted, done.rejected) == (None, 2, 1)
    [(line, reason)] = done.rejections
    assert line == 3
    assert f"came several inside of a quote: lines 3 to {between + 4}" in reason


def test_empty_cells_in_quotes_do_not_hide_the_rows(loaded: Load) -> None:
    done = loaded(plain('"hello', '""', '""', 'x"', "hi"))
    assert (done.reason, done.inserted, done.rejected) == (None, 1, 1)


@pytest.mark.parametrize("cell", ['"cut in the mid', '"cut in\nthe mid\n'])
def test_a_file_that_ends_inside_of_a_quote_is_told(cell: str, loaded: Load) -> None:
    done = loaded(plain("hi", cell).rstrip("\n"))
    assert done.inserted == 1
    assert "line 3: expected CSV, came a row with a fault: unexpected end of data" in str(done.reason)


def test_text_behind_a_quote_is_told(loaded: Load) -> None:
    done = loaded(plain("hi", '"5" screen', "hi"))
    assert done.inserted == 1
    assert "Nothing from line 3 on was read" in str(done.reason)


@pytest.mark.parametrize("first", ["event_id", "prompt"])
@pytest.mark.parametrize("quoting", [0, 1])
def test_texts_of_many_lines_are_read(first: str, quoting: int, loaded: Load) -> None:
    prose = "Take these: one, two, three, four, five, six, seven, eight, nine, ten, eleven\nand say more.\n" * 200
    code = 'def f(a, b):\n    return {"a": a, "b": b}\n\n' * 100
    texts = [prose, code, "two\nlines", 'a\n"quoted", and more\n', "x" * 100_000 + "\ny"]
    rows = [event(prompt=text) for text in texts]
    done = loaded(as_csv([{first: row[first], **row} for row in rows], quoting=quoting).decode())
    assert (done.reason, done.rejections, done.inserted) == (None, [], 5)

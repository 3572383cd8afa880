"""Printing for commands: lines and tables, JSON, progress on a terminal. No other module of `commands/` prints.

Ids, reasons and errors are of others' choosing. A terminal would obey escape sequences in them, so these are shown as `\\x1b`.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from usage_pipeline.texts import visible

# Narrower, a sentence would be a pile of single words.
_LEAST_TEXT_WIDTH = 20
_UNPRINTABLE = re.compile(r"[^ -~]")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process with the status of a command that failed in part.
        raise


def print_json(document: Any) -> None:
    """Prints one JSON document. Sets are sorted; types that JSON does not know are written as text.

    It is exact: what does not print as itself is an escape such as `\\u001b`, which every reader of JSON turns back.
    """

    def known(value: Any) -> Any:
        return sorted(value) if isinstance(value, set) else list(value) if isinstance(value, map) else str(value)

    # Elsewhere than in UTF-8, an escape of JSON is what every reader turns back.
    is_any_letter = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, default=known, ensure_ascii=not is_any_letter)
    print(_UNPRINTABLE.sub(lambda one: one[0] if one[0].isprintable() else json.dumps(one[0])[1:-1], text))


def say(text: str, *, to_errors: bool = False) -> None:
    """Prints one line. Not with `:m:` of a key such as usage:m:2026-11-28:orders as the emoji of that name."""
    _Console(stderr=to_errors, soft_wrap=True).print(visible(text), markup=False, highlight=False, emoji=False)


def print_document(text: str) -> None:
    """A document of several lines, for programs. On a terminal, controls of others show as escapes."""
    sys.stdout.write(visible(text, but="\n") if sys.stdout.isatty() else text)


def print_table(
    title: str, columns: list[str], rows: list[tuple[Any, ...]], *, to_copy: Collection[str] = frozenset()
) -> None:
    """Prints a table with numbers to the right. Without rows it prints the title alone.

    Where it is wider than the terminal, columns without a value go and texts are wrapped between words, but not columns
    `to_copy`. No number and no id is ever broken: where that is not enough, each row is a block of lines `column value`.
    """
    if not rows:
        say(f"{title}.")
        return
    say(title)
    shown = [_Column.of(name, [row[place] for row in rows], name in to_copy) for place, name in enumerate(columns)]
    console = _Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A file or a program has no width.
        console = _Console(width=max(80, _width(column.widest for column in shown)))
    if _width(column.widest for column in shown) > console.width:
        shown = [column for column in shown if any(cell.plain for cell in column.cells)]
    if _width(column.least for column in shown) > console.width:
        _print_blocks(shown)
        return
    table, room = Table(), console.width - _width(column.least for column in shown)
    for column in shown:
        width = min(column.widest, column.least + room)
        room -= width - column.least
        table.add_column(column.name, justify="right" if column.is_number else "left", width=width)
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*cells)
    console.print(table)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table, how wide it is without a line break, and how narrow it may become."""

    name: str
    cells: list[Text]
    is_number: bool
    widest: int
    least: int

    @classmethod
    def of(cls, name: str, values: list[Any], is_to_copy: bool) -> Self:
        cells = [_cell(value) for value in values]
        texts = [cell.plain for cell in cells]
        widest = max(map(cell_len, texts))
        is_number = all(value is None or isinstance(value, int) for value in values)
        least = widest if is_to_copy or is_number else min(widest, max(_LEAST_TEXT_WIDTH, _longest_word(texts)))
        return cls(name, cells, is_number, max(widest, cell_len(name)), max(least, _longest_word([name])))


def _longest_word(texts: Iterable[str]) -> int:
    return max(cell_len(word) for text in texts for word in text.split(" "))


def _width(columns: Iterable[int]) -> int:
    """Of a table with such columns: each has a space on both sides, and a border to its right."""
    return sum(width + 3 for width in columns) + 1


def _print_blocks(columns: list[_Column]) -> None:
    """Prints each row as lines, without what is empty."""
    margin = max(cell_len(column.name) for column in columns) + 2
    for place in range(len(columns[0].cells)):
        if place:
            say("")
        for column in columns:
            if value := column.cells[place].plain:
                say(f"{column.name:<{margin}}{value}")


def _cell(value: Any) -> Text:
    """A value as plain text: text from Redis must not be read as markup. A time is in UTC, in whole seconds."""
    if isinstance(value, datetime):
        value = f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else visible(str(value)))


@contextmanager
def progress(is_quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows one line that changes, on a terminal only, and not when standard output has JSON."""
    console = _Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as line:
        yield lambda text: line.update(_cell(text))

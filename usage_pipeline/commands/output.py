"""Printing for commands: tables and JSON on standard output, progress on a terminal."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(document: Any) -> None:
    """Prints one JSON document. Sets are sorted; types that JSON does not know are written as text."""

    def known(value: Any) -> Any:
        return sorted(value) if isinstance(value, set) else list(value) if isinstance(value, map) else str(value)

    print(json.dumps(document, default=known, ensure_ascii=False))


def print_table(title: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Prints a table with numbers to the right. Without rows it prints the title alone."""
    if not rows:
        Console().print(f"{title}.", markup=False)
        return
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        is_number = all(isinstance(row[position], int) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console().print(table)


def _cell(value: Any) -> Text:
    """A value as plain text: text from Redis must not be read as markup."""
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else str(value))


@contextmanager
def progress(is_quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows one line that changes, on a terminal only, and not when standard output has JSON."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as line:
        yield line.update

"""What the commands print: tables and JSON on standard output, progress on a terminal."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(document: Any) -> None:
    """One JSON document; sets are sorted, and what JSON does not know is its text."""

    def known(value: Any) -> Any:
        return sorted(value) if isinstance(value, set) else list(value) if isinstance(value, map) else str(value)

    print(json.dumps(document, default=known, ensure_ascii=False))


def print_table(title: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """A table with numbers to the right; without rows, its title alone."""
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
    """As plain text: what came out of Redis must not be read as markup."""
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else str(value))


@contextmanager
def progress(is_quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line that changes on a terminal; elsewhere, or with JSON on standard output, nothing."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as line:
        yield line.update

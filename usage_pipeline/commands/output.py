"""Printing for commands: lines and tables, JSON, progress on a terminal. No other module of `commands/` prints.

Ids, reasons and errors are of others' choosing. A terminal would obey escape sequences in them, so these are shown as `\\x1b`.
"""

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from usage_pipeline.texts import visible

_UNPRINTABLE = re.compile(r"[^ -~]")


def print_json(document: Any) -> None:
    """Prints one JSON document. Sets are sorted; types that JSON does not know are written as text.

    It is exact: what does not print as itself is an escape such as `\\u001b`, which every reader of JSON turns back.
    """

    def known(value: Any) -> Any:
        return sorted(value) if isinstance(value, set) else list(value) if isinstance(value, map) else str(value)

    text = json.dumps(document, default=known, ensure_ascii=False)
    print(_UNPRINTABLE.sub(lambda one: one[0] if one[0].isprintable() else json.dumps(one[0])[1:-1], text))


def say(text: str, *, to_errors: bool = False) -> None:
    """Prints one line. Not with `:m:` of a key such as usage:m:2026-11-28:orders as the emoji of that name."""
    Console(stderr=to_errors, soft_wrap=True).print(visible(text), markup=False, highlight=False, emoji=False)


def print_document(text: str) -> None:
    """A document of several lines, for programs. On a terminal, controls of others show as escapes."""
    sys.stdout.write(visible(text, but="\n") if sys.stdout.isatty() else text)


def print_table(
    title: str, columns: list[str], rows: list[tuple[Any, ...]], *, to_copy: Collection[str] = frozenset()
) -> None:
    """Prints a table with numbers to the right. Without rows it prints the title alone.

    Columns `to_copy` stay on one line, however narrow the terminal is.
    """
    if not rows:
        say(f"{title}.")
        return
    table = Table(title=_cell(title), title_justify="left")
    for position, column in enumerate(columns):
        is_number = all(isinstance(row[position], int) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=column in to_copy)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console().print(table)


def _cell(value: Any) -> Text:
    """A value as plain text: text from Redis must not be read as markup."""
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else visible(str(value)))


@contextmanager
def progress(is_quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows one line that changes, on a terminal only, and not when standard output has JSON."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as line:
        yield lambda text: line.update(_cell(text))

"""Text that others chose, where people read it: terminals, logs, spreadsheets. Messages of alerts are in alerting/."""

import ast
import csv
import io
import json
import logging
import re
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.commands import output
from usage_pipeline.exports.columns import Column
from usage_pipeline.exports.encodings import CsvEncoding
from usage_pipeline.log_lines import LineFormatter
from usage_pipeline.texts import counted, csv_cell, storable, visible, without_mentions
from usage_pipeline_tests.rigs.commands import Run

COMMANDS = Path(output.__file__).parent
# ESC, BEL, C1's CSI, a bidi override, line breaks of three kinds, Rich's markup, a tag character.
HOSTILE = "a\x1b[31m\x1b]0;t\x07\x9b2J\u202eb\nforged\r\x85\u2028[bold]x[/bold]\U000e0041\x7f é😀"
NARROW = re.compile("[\\s\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def unprintable(text: str) -> set[str]:
    return {character for character in text if not character.isprintable() and character != "\n"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 日本 😀 \u00a0\u3000", "plain é 日本 😀 \u00a0\u3000"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b\x7f\0", r"\x9b\x7f\x00"),
        ("a\r\n\tb\x0b\x0c\x1c\x85\u2028\u2029", r"a\r\n\tb\x0b\x0c\x1c\x85\u2028\u2029"),
        ("\u202e\u2066\u200b\ufeff", r"\u202e\u2066\u200b\ufeff"),
        ("\ud800\U000e0041", r"\ud800\U000e0041"),
    ],
)
def test_what_does_not_print_as_itself_is_shown_as_an_escape(text: str, expected: str) -> None:
    assert visible(text) == expected
    assert visible(text, but="\n") == "\n".join(visible(line) for line in text.split("\n"))


@given(st.text(st.characters(), max_size=40))
def test_what_is_shown_prints_and_can_be_encoded(text: str) -> None:
    for shown in (visible(text), without_mentions(text).replace("\u200b", "")):
        shown.encode()
        assert all(character.isprintable() or character.isspace() for character in shown)
        assert len(shown.splitlines()) <= 1
    storable(text).encode()
    assert "\0" not in storable(text)
    assert text.isprintable() <= (storable(text) == text)


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "\u3000=1", "\u00a0=1", "\ufeff=1", "\u200b=1"),
        *(
            "＝1",
            "＋1",
            "－1",
            "＠1",
            " ＝1",
            "\t",
            "\n",
            "\r",
            "=",
            '=HYPERLINK("http://evil.example")',
            "'=1",
            "''=1",
        ),
    ],
)
def test_no_cell_begins_as_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a", "a=1", "'", "'a", "1", "é", "a\n=1", "a@b"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert csv_cell(text) == text


@given(st.lists(st.text("ab'=+-@＝＠ ;,|\t\r\n\"\u200b", max_size=8), min_size=2, max_size=2))
def test_a_file_gives_back_every_text_after_the_rule_that_the_documentation_names(texts: list[str]) -> None:
    columns = [Column("a", "text", "A", "x"), Column("b", "text", "B", "x")]
    encoding = CsvEncoding(columns)
    data = (encoding.rows([texts]) + encoding.end()).decode()
    [_, cells] = csv.reader(io.StringIO(data, newline=""), strict=True)
    assert not any(NARROW.match(cell) for cell in cells)
    # docs/http.md: a cell of one or more ' before such a beginning lost nothing but its first '.
    read = [cell[1:] if cell.startswith("'") and NARROW.match(cell.lstrip("'")) else cell for cell in cells]
    assert read == texts


def test_a_terminal_gets_no_control_of_others(capfd: pytest.CaptureFixture[str]) -> None:
    output.say(HOSTILE)
    output.say(HOSTILE, to_errors=True)
    output.print_table(HOSTILE, ["column"], [])
    output.print_table(HOSTILE, ["column", "other"], [(HOSTILE, 1), (None, 2)])
    for printed in capfd.readouterr():
        assert unprintable(printed) == set()
        assert not [line for line in printed.splitlines() if line.startswith("forged")]
        assert r"a\x1b[31m\x1b]0;t\x07\x9b2J\u202eb\nforged" in printed
        assert "[bold]x[/bold]" in printed.replace("\n", "")


def test_a_key_on_a_terminal_has_no_emoji_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    key = "usage:m:2026-11-28:orders"
    output.say(key)
    output.print_table(key, ["column"], [(key,)])
    assert capfd.readouterr().out.count(key) == 3


def test_json_is_exact_and_holds_no_control_either(capfd: pytest.CaptureFixture[str]) -> None:
    document = {HOSTILE: [HOSTILE, "\ud800", "日本"]}
    output.print_json(document)
    printed = capfd.readouterr().out
    assert unprintable(printed) == set()
    assert printed.count("\n") == 1
    assert "日本" in printed
    assert json.loads(printed) == document


def test_commands_print_only_through_the_one_place_that_does_so() -> None:
    elsewhere = [
        f"{path.name}:{node.lineno}"
        for path in sorted(COMMANDS.rglob("*.py"))
        # The boundary of errors says its one line, and keeps the traceback of a bug, by itself.
        if path.name not in ("output.py", "errors.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("print", "echo", "Console", "write")
        # A new token: our own characters, and nothing else on the line.
        if ast.unparse(node) != "print(made.token)"
    ]
    assert elsewhere == []


def test_a_hostile_key_is_listed_as_text_and_exactly_in_json(run: Run, redis_client: redis.Redis) -> None:
    key = f"apikey:{HOSTILE}:metrics"
    redis_client.hset(key, "total_requests", "\x1b[2Jmany\n")
    drained = run("drain", "--once")
    assert drained.returncode == 1
    listed = run("dead-letters", "list")
    replayed = run("dead-letters", "replay")
    for done in (drained, listed, replayed):
        assert unprintable(done.stdout + done.stderr) == set()
    assert r"\x1b[31m" in "".join(listed.stdout.split())
    exact = run("dead-letters", "list", "--json").stdout
    assert unprintable(exact) == set()
    assert [letter["source_key"] for letter in json.loads(exact)["dead_letters"]] == [key]


def test_an_error_of_a_command_is_one_line(run: Run) -> None:
    done = run("dead-letters", "replay", "1", "--set", HOSTILE.replace("=", ""), "--reason", "r")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert unprintable(line) == set()


def test_a_record_of_the_log_is_one_line_and_a_traceback_holds_no_line_that_looks_like_one() -> None:
    forged = "2026-11-20 13:00:00,000 ERROR forged"
    try:
        raise ValueError(f"x\n{forged}\x1b[2J")
    except ValueError as error:
        failed = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("a", logging.WARNING, "", 1, "key %s", (f"{HOSTILE}\n{forged}",), failed)
    first, *others = LineFormatter().format(record).split("\n")
    assert first.endswith(rf"\n{forged}")
    assert others
    assert all(line.startswith("  ") for line in others)
    assert unprintable("".join((first, *others))) == set()


@pytest.mark.parametrize(
    ("number", "one", "more", "said"),
    [
        (0, "key", "", "0 keys"),
        (1, "key", "", "1 key"),
        (1_200, "key", "", "1,200 keys"),
        (1, "batch is", "batches are", "1 batch is"),
        (2, "batch is", "batches are", "2 batches are"),
    ],
)
def test_what_is_counted_agrees_with_its_number(number: int, one: str, more: str, said: str) -> None:
    assert counted(number, one, more) == said


def test_no_sentence_for_people_counts_without_a_look_at_the_number() -> None:
    """`{len(keys)} keys` is wrong for one key."""
    folders = (COMMANDS, COMMANDS.parent / "alerting", COMMANDS.parent / "checks")
    lines = [line for folder in folders for file in folder.rglob("*.py") for line in file.read_text().splitlines()]
    assert len(lines) > 2_000
    assert [line.strip() for line in lines if re.search(r"\{(len\([^{}]*\)|[^{}:]*:,)\} [a-z ]*?[a-z]+s\b", line)] == []

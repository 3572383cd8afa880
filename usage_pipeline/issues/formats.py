"""Files of issues as exporters write them: CSV with `,`, `;` or tabs, JSON arrays and JSON lines. Which column is which.

Every issue becomes a row with our names of its columns; what the values mean is in `file.py`. Other columns are not read.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import msgspec

from usage_pipeline.texts import counted
from usage_pipeline.values import UNREADABLE_JSON, Malformed, shown

Row = Mapping[str, str]
# A row, or why there is none, with its first line in the file, and what a reason begins with: a JSON array may be one line.
Found = tuple[int, str, Row | Malformed]

# `gh` writes all comments of an issue into one field. A longer one is no issue of anybody.
MAX_FIELD_CHARACTERS = 16 * 2**20
# Of a line, and of a row of CSV with all its lines. What is longer is not held in memory.
MAX_ROW_CHARACTERS = 2 * MAX_FIELD_CHARACTERS
MAX_HEADER_CHARACTERS = 2**20
# A JSON array is decoded as a whole.
MAX_JSON_CHARACTERS = 256 * 2**20
# Names of exporters, without case, blanks and underscores: ours, GitHub's, Jira's. Of two the earlier is taken.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "number": ("number", "issuekey", "key"),
    "created_at": ("createdat", "created"),
    "updated_at": ("updatedat", "updated"),
    "closed_at": ("closedat", "resolvedat", "resolved"),
    "state": ("state", "status"),
    "comments": ("comments", "comment"),
    "reactions": ("reactions", "reactiongroups", "votes"),
    "title": ("title", "summary"),
    "status_category": ("statuscategory",),
}
REQUIRED_COLUMNS = ("number", "created_at", "updated_at", "closed_at", "state", "comments")
_EXPECTED = f"{', '.join(REQUIRED_COLUMNS)} and optionally reactions and title, or those of GitHub or Jira"
# Jira has one column for each comment, and none where nobody commented.
_COLUMN_PER_COMMENT = "comment"
_OF_JIRA = "issuekey"


class WrongLayout(Exception):
    """The file has no issues that we know how to read. The message says the line, what was expected and what came."""


def rows_of(file: IO[str]) -> Iterator[Found]:
    """The rows of an open file with their lines, one at a time. Raises WrongLayout.

    After an error inside quotes nobody knows where the next line begins: what follows is not read.
    """
    first = file.readline(MAX_ROW_CHARACTERS + 1)
    if first.lstrip()[:1] == "[":
        yield from _rows_of_array(first + file.read(MAX_JSON_CHARACTERS))
    elif first.lstrip()[:1] == "{":
        yield from _rows_of_lines(first, file)
    elif len(first) > MAX_HEADER_CHARACTERS:
        raise WrongLayout(f"line 1: expected a header of at most {MAX_HEADER_CHARACTERS} characters, came more")
    else:
        with _field_limit(MAX_FIELD_CHARACTERS):
            yield from _rows_of_csv(first, file)


def _lines_of(first: str, file: IO[str]) -> Iterator[str]:
    """The lines of a file whose first one was begun to be read; of one that is too long its first characters."""
    line = first
    while line:
        yield line
        while len(line) > MAX_ROW_CHARACTERS and not line.endswith(("\n", "\r")):
            line = file.readline(MAX_ROW_CHARACTERS + 1)
        line = file.readline(MAX_ROW_CHARACTERS + 1)


@dataclass(slots=True)
class _Lines:
    """The lines of a file, and what was read for the current record: its first line, how many there were, and their characters.

    Raises Malformed when they are too long.
    """

    lines: Iterator[str]
    first: str = ""
    count: int = 0
    characters: int = 0

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.first = self.first if self.count else line
            self.count += 1
            self.characters += len(line)
            if self.characters > MAX_ROW_CHARACTERS:
                raise _too_long(". Nothing after that was read")
            yield line

    def begin_record(self) -> None:
        self.first, self.count, self.characters = "", 0, 0


def _too_long(consequence: str = "") -> Malformed:
    return Malformed(f"expected a row of at most {MAX_ROW_CHARACTERS} characters, came more{consequence}")


@contextmanager
def _field_limit(characters: int) -> Iterator[None]:
    before = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows_of_csv(first: str, file: IO[str]) -> Iterator[Found]:
    delimiter = max(",;\t", key=lambda one: len(_known(first.split(one))))
    lines = _Lines(_lines_of(first, file))
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
    except (csv.Error, Malformed) as error:
        raise WrongLayout(f"line 1: expected a header, came: {error}") from None
    columns = _columns(header)
    while True:
        line = reader.line_num + 1
        lines.begin_record()
        try:
            values = next(reader)
        except StopIteration:
            return
        except Malformed as too_long:
            yield line, "", too_long
            return
        except csv.Error as error:
            if lines.count != 1 or _is_place_lost(lines.first, delimiter):
                said = f"expected CSV up to line {reader.line_num}, came: {error}. Nothing after that was read"
                yield line, "", Malformed(said)
                return
            yield line, "", Malformed(f"expected CSV up to line {reader.line_num}, came: {error}")
            continue
        # Spreadsheets end their files with rows of nothing.
        if any(value.strip() for value in values):
            yield line, "", _row(header, columns, values)


def _is_place_lost(line: str, delimiter: str) -> bool:
    """Whether the end of a record with an error is unknown. It is known of a single line with all its quotes closed."""
    if line.count('"') % 2 == 1:
        return True
    try:
        # Read leniently, an open quote would swallow the next line.
        return len(list(csv.reader([line, "next"], delimiter=delimiter))) != 2
    except csv.Error:
        return True


def _row(header: Sequence[str], columns: Mapping[str, Sequence[int]], values: Sequence[str]) -> Row | Malformed:
    if len(values) != len(header):
        return Malformed(f"expected {counted(len(header), 'value')}, came {len(values)}")
    row = {name: values[places[0]] for name, places in columns.items() if places}
    places = columns["comments"]
    if not places or _plain(header[places[0]]) == _COLUMN_PER_COMMENT:
        row["comments"] = str(sum(bool(values[place].strip()) for place in places))
    return row


def _known(header: Iterable[str]) -> set[str]:
    every = {name for names in _NAMES.values() for name in names}
    return {plain for name in header if (plain := _plain(name.strip().strip('"'))) in every}


def _plain(name: str) -> str:
    return re.sub(r"[\s_\ufeff-]", "", name).casefold()


def _columns(header: Sequence[str]) -> dict[str, list[int]]:
    """Where each of our columns is. Raises WrongLayout when one is missing or comes twice."""
    plain = [_plain(name) for name in header]
    found = {
        ours: next((places for name in names if (places := _places(plain, name))), list[int]())
        for ours, names in _NAMES.items()
    }
    is_of_jira = bool(found["number"]) and plain[found["number"][0]] == _OF_JIRA
    missing = [name for name in REQUIRED_COLUMNS if not found[name] and not (is_of_jira and name == "comments")]
    twice = [name for name, places in found.items() if len(places) > 1 and plain[places[0]] != _COLUMN_PER_COMMENT]
    if missing or twice:
        came = shown(", ".join(header).encode()) if header else "none"
        wrong = f"; missing: {', '.join(missing)}" if missing else f"; twice: {', '.join(twice)}"
        raise WrongLayout(f"line 1: expected the columns {_EXPECTED}, came {came}{wrong if header else ''}")
    return found


def _places(names: Sequence[str], wanted: str) -> list[int]:
    return [place for place, name in enumerate(names) if name == wanted]


def _rows_of_array(text: str) -> Iterator[Found]:
    if len(text) > MAX_JSON_CHARACTERS:
        raise WrongLayout(
            f"expected a JSON array of at most {MAX_JSON_CHARACTERS} characters, came more; use JSON lines"
        )
    content = text.encode()
    try:
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
    except UNREADABLE_JSON as error:
        raise WrongLayout(f"expected a JSON array of issues, came: {error}") from None
    # The items have no lines, but they are in the text, one after the other.
    begin, end, line = 0, 0, 1
    for number, item in enumerate(map(bytes, items), start=1):
        before, begin = begin, content.index(item, end)
        end = begin + len(item)
        line += content.count(b"\n", before, begin)
        yield line, f"issue {number} of the array: ", _row_of_object(item)


def _rows_of_lines(first: str, file: IO[str]) -> Iterator[Found]:
    for number, line in enumerate(_lines_of(first, file), start=1):
        if len(line) > MAX_ROW_CHARACTERS:
            yield number, "", _too_long()
        elif line.strip():
            yield number, "", _row_of_object(line.encode())


def _row_of_object(content: bytes) -> Row | Malformed:
    try:
        members = msgspec.json.decode(content, type=dict[str, object])
    except UNREADABLE_JSON as error:
        return Malformed(f"expected a JSON object, came: {error}")
    try:
        columns = _columns(list(members))
    except WrongLayout as wrong:
        return Malformed(str(wrong).removeprefix("line 1: "))
    values = list(members.values())
    return {name: _text(values[places[0]]) for name, places in columns.items() if places}


def _text(value: object) -> str:
    """A member as a cell of a CSV file has it."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def count_of(text: str) -> str:
    """What a list of comments or reactions counts, as digits. Another text stays as it is.

    `gh` writes `comments` as an array, and `reactionGroups` as an array of counts; the API of GitHub has an object of counts.
    """
    if text[:1] not in ("[", "{"):
        return text
    try:
        value = msgspec.json.decode(text.encode())
    except UNREADABLE_JSON:
        return text
    if isinstance(value, dict):
        total = value.get("total_count", value.get("totalCount"))
        return str(total) if isinstance(total, int) else text
    groups = [
        one["users"].get("totalCount") for one in value if isinstance(one, dict) and isinstance(one.get("users"), dict)
    ]
    if groups and len(groups) == len(value) and all(isinstance(one, int) for one in groups):
        return str(sum(groups))
    return str(len(value))

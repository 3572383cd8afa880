"""Files of the usual exporters, and files in which a parser loses its place."""

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest

from usage_pipeline.issues import formats
from usage_pipeline.issues.file import BadLine, IssueFileError, read_issues
from usage_pipeline.issues.load import load_issues
from usage_pipeline_tests.rigs.issues import HEADER, write_issues

CREATED, UPDATED = datetime(2019, 3, 18, 10, 59, 1, tzinfo=UTC), datetime(2021, 5, 12, 2, 25, 37, tzinfo=UTC)
CLOSED = datetime(2019, 3, 18, 14, 43, 52, tzinfo=UTC)
# What `gh issue list --state all --json number,title,state,createdAt,updatedAt,closedAt,comments,reactionGroups` prints.
GH = [
    {
        "closedAt": "2019-03-18T14:43:52Z",
        "comments": [
            {"id": "IC_1", "author": {"login": "ann"}, "body": 'a, "b"\n;', "createdAt": "2019-03-18T11:00:00Z"}
        ],
        "createdAt": "2019-03-18T10:59:01Z",
        "number": 8144,
        "reactionGroups": [
            {"content": "THUMBS_UP", "users": {"totalCount": 4}},
            {"content": "HEART", "users": {"totalCount": 3}},
        ],
        "state": "CLOSED",
        "title": 'One, "two"',
        "updatedAt": "2021-05-12T02:25:37Z",
    },
    {
        "closedAt": None,
        "comments": [],
        "createdAt": "2019-03-18T10:59:01Z",
        "number": 9,
        "reactionGroups": [],
        "state": "OPEN",
        "title": "Open",
        "updatedAt": "2021-05-12T02:25:37Z",
    },
]


def stored(postgres: psycopg.Connection) -> list[tuple[object, ...]]:
    query = """
        select id, title, status, view_count, created_at, updated_at, resolved_at,
            (select count(*) from app.comments where issue_id = issue.id)
        from app.issues as issue
        order by id desc
    """
    return postgres.execute(query).fetchall()


EXPECTED = [
    ("9", "Open", "OPEN", 0, CREATED, UPDATED, None, 0),
    ("8144", 'One, "two"', "CLOSED", 7, CREATED, UPDATED, CLOSED, 1),
]


def as_csv(delimiter: str) -> str:
    """The same as CSV, as a spreadsheet writes what a JSON tool flattened, with its empty last row."""
    quoted = [
        [
            f'"{text}"'
            for text in (str(one["number"]), one["state"], one["createdAt"], one["updatedAt"], one["closedAt"] or "")
        ]
        + ['"' + json.dumps(one[name]).replace('"', '""') + '"' for name in ("comments", "reactionGroups")]
        + ['"' + str(one["title"]).replace('"', '""') + '"', '"https://github.com/x"']
        for one in GH
    ]
    header = ["number", "state", "createdAt", "updatedAt", "closedAt", "comments", "reactionGroups", "title", "url"]
    return "\r\n".join(delimiter.join(row) for row in [header, *quoted, [""] * 9])


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(GH),
        json.dumps(GH, indent=2),
        "\n".join(json.dumps(one) for one in GH),
        as_csv(","),
        as_csv(";"),
        as_csv("\t"),
        "\ufeff" + as_csv(","),
        as_csv(",").replace("createdAt", "CREATED_AT").replace("state", "State").replace("updatedAt", "Updated At"),
        as_csv(",")
        .replace("2019-03-18T10:59:01Z", "2019-03-18T16:29:01+05:30")
        .replace("2021-05-12T02:25:37Z", "2021-05-11 19:25:37-0700"),
    ],
    ids=["array", "indented", "lines", "comma", "semicolon", "tab", "bom", "names", "offsets"],
)
def test_what_gh_exports_is_read_in_every_form(content: str, tmp_path: Path, postgres: psycopg.Connection) -> None:
    path = tmp_path / "issues"
    path.write_bytes(content.encode())
    report = load_issues(postgres, path)
    assert (report.bad_lines, report.issues) == ((), 2)
    assert stored(postgres) == EXPECTED


def test_the_csv_export_of_jira_is_read_with_a_column_for_each_comment_and_times_of_a_zone(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    header = (
        "Summary,Issue key,Issue id,Status,Status Category,Created,Updated,Resolved,Votes,Labels,Labels,Comment,Comment"
    )
    lines = (
        "Fails,PROJ-7,10007,Done,Done,18/Mar/19 10:59 AM,12/May/21 2:25 AM,18/Mar/19 12:43 PM,3,a,b,18/Mar/19 11:00 AM;ann;x,",
        "Waits,PROJ-8,10008,Waiting for customer,In Progress,18/Mar/19 12:00 AM,18/Mar/19 11:59 PM,,0,,,,",
        "Odd,PROJ-9,10009,Waiting,,18/Mar/19 12:00 AM,18/Mar/19 11:59 PM,,0,,,,",
    )
    path = write_issues(tmp_path / "jira.csv", *lines, header=header)
    report = load_issues(postgres, path, zone=ZoneInfo("America/New_York"))
    assert [(bad.line, bad.reason) for bad in report.bad_lines] == [
        (4, "state: expected open or closed, came 'Waiting'")
    ]
    waits = (datetime(2019, 3, 18, 4, tzinfo=UTC), datetime(2019, 3, 19, 3, 59, tzinfo=UTC))
    assert stored(postgres) == [
        (
            "PROJ-8",
            "Waits",
            "IN_PROGRESS",
            0,
            *waits,
            None,
            0,
        ),  # type: ignore[arg-type]
        (
            "PROJ-7",
            "Fails",
            "RESOLVED",
            3,
            datetime(2019, 3, 18, 14, 59, tzinfo=UTC),
            datetime(2021, 5, 12, 6, 25, tzinfo=UTC),
            datetime(2019, 3, 18, 16, 43, tzinfo=UTC),
            1,
        ),
    ]


def test_views_that_a_file_does_not_have_stay_as_they_are(tmp_path: Path, postgres: psycopg.Connection) -> None:
    line = "1,2020-01-01 00:00:00,2020-01-01 00:00:00,,open,0"
    load_issues(postgres, write_issues(tmp_path / "a.csv", f"{line},6"))
    load_issues(postgres, write_issues(tmp_path / "b.csv", line, header=HEADER.removesuffix(",reactions")))
    assert postgres.execute("select view_count from app.issues").fetchall() == [(6,)]


EVIL = "9030,2024-01-01 00:00:00,2024-01-01 00:00:00,,open,1,999999,evil"
GOOD = "1,2020-01-01 00:00:00,2020-01-01 00:00:00,,open,0,6,One"


def test_lines_inside_a_long_title_are_no_issues(tmp_path: Path, postgres: psycopg.Connection) -> None:
    text = "\n".join(EVIL if number == 5_000 else "x" * 40 for number in range(6_000))
    lines = (GOOD, f'2,2020-01-01 00:00:00,2020-01-01 00:00:00,,open,0,6,"{text}"', GOOD.replace("1,", "3,", 1))
    report = load_issues(postgres, write_issues(tmp_path / "a.csv", *lines, header=f"{HEADER},title"))
    assert [(bad.line, bad.reason[:45]) for bad in report.bad_lines] == [
        (3, "title: expected at most 1000 characters, came")
    ]
    assert [row[0] for row in stored(postgres)] == ["3", "1"]


@pytest.mark.parametrize(
    "broken", ['"a"b', '"over\ntwo"b', '"a"b,"open', '"a"b","c'], ids=["closed", "lines", "open", "even"]
)
def test_after_a_broken_quote_the_rest_is_read_only_if_it_is_known_where_it_begins(
    broken: str, tmp_path: Path, postgres: psycopg.Connection
) -> None:
    lines = (GOOD, f"2,2020-01-01 00:00:00,2020-01-01 00:00:00,,open,0,6,{broken}", EVIL)
    report = load_issues(postgres, write_issues(tmp_path / "a.csv", *lines, header=f"{HEADER},title"))
    is_known = broken == '"a"b'
    assert [row[0] for row in stored(postgres)] == (["9030", "1"] if is_known else ["1"])
    assert [bad.line for bad in report.bad_lines] == [3]
    assert report.bad_lines[0].reason.endswith("Nothing after that was read") is not is_known


def test_after_a_field_beyond_the_limit_nothing_is_read(
    tmp_path: Path, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_FIELD_CHARACTERS", 10_000)
    lines = (GOOD, f'2,2020-01-01 00:00:00,2020-01-01 00:00:00,,open,0,6,"{"x" * 20_000}', EVIL, '"', EVIL)
    report = load_issues(postgres, write_issues(tmp_path / "a.csv", *lines, header=f"{HEADER},title"))
    assert [row[0] for row in stored(postgres)] == ["1"]
    assert "field larger than field limit" in report.bad_lines[0].reason
    assert "Nothing after that was read" in report.bad_lines[0].reason


def test_bad_json_is_told_by_its_line(tmp_path: Path, postgres: psycopg.Connection) -> None:
    bad = {**GH[1], "number": 10, "state": "merged"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([GH[0], bad, {"number": 11}], indent=0))
    report = load_issues(postgres, path)
    assert report.issues == 1
    lines = path.read_text().splitlines()
    assert [lines[one.line - 1] for one in report.bad_lines] == ["{", "{"]
    assert report.bad_lines[0].reason == "issue 2 of the array: state: expected open or closed, came 'merged'"
    assert "missing: created_at" in report.bad_lines[1].reason
    path.write_text(f"{json.dumps(GH[0])}\n\n7\n{{broken\n{json.dumps(bad)}\n")
    assert [one.line for one in load_issues(postgres, path).bad_lines] == [3, 4, 5]


TIMES = {"created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-02T00:00:00Z", "closed_at": None, "state": "OPEN"}


@pytest.mark.parametrize(
    ("begin", "piece", "end", "said", "good"),
    [
        (json.dumps({"number": 1, "comments": 0, **TIMES})[:-1] + ', "title": "', "x", '"}\n', "a row of at most", 2),
        (HEADER + "\n", "x", "\n", "a row of at most", 1),
        (HEADER + '\n"', "\n", '"\n', "a row of at most", 1),
        ("", "number,", "\n", "a header of at most", None),
        ('"', "\n", '"\n', "a row of at most", None),
        ("[", " ", "]\n", "a JSON array of at most", None),
    ],
    ids=["json lines", "csv", "a row of many lines", "a header", "a header of many lines", "an array"],
)
def test_a_row_without_end_is_told_and_not_held(
    begin: str, piece: str, end: str, said: str, good: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAX_ROW_CHARACTERS", "MAX_HEADER_CHARACTERS", "MAX_JSON_CHARACTERS"):
        monkeypatch.setattr(formats, name, 10_000, raising=False)
    path, size = tmp_path / "issues", 2 * 2**20
    after = json.dumps({"number": 2, "comments": 0, **TIMES}) + "\n"
    path.write_text(begin + piece * (size // len(piece)) + end + after)
    tracemalloc.start()
    try:
        if good is None:
            with pytest.raises(IssueFileError, match=said):
                list(read_issues(path, datetime.now(UTC)))
        else:
            found = [one for _, one in read_issues(path, datetime.now(UTC))]
            assert len(found) == good
            assert isinstance(found[0], BadLine)
            assert said in found[0].reason
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 4

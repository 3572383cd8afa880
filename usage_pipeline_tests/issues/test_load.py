"""The loader of issues: what becomes of good and of bad lines, and that a second load changes nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_pipeline.issues.file import BadLine, Issue, IssueFileError, parsed_issue
from usage_pipeline.issues.load import LoadReport, load_issues
from usage_pipeline.values import Malformed
from usage_pipeline_tests.rigs.issues import (
    HEADER,
    comment_frame,
    issue_frame,
    made_up_file,
    real_file,
    row_versions,
    write_issues,
)

GOOD = "8144,2019-03-18 10:59:01,2021-05-12 02:25:37,2019-03-18 14:43:52,closed,1,7"
OPEN = "9,2019-03-18 10:00:00,2019-03-18 10:00:10,,open,3,0"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def issues(postgres: psycopg.Connection) -> list[tuple[object, ...]]:
    query = "select id, title, status, view_count, created_at, updated_at, resolved_at from app.issues order by id"
    return postgres.execute(query).fetchall()


def comments(postgres: psycopg.Connection) -> list[tuple[object, ...]]:
    return postgres.execute("select id, issue_id, created_at from app.comments order by id").fetchall()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_line_becomes_an_issue_and_as_many_comments_spread_evenly(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    report = load_issues(postgres, write_issues(tmp_path / "a.csv", GOOD, OPEN))
    assert report == LoadReport(2, 0, 2, 0, 4, 0, 0, 0, ())
    assert issues(postgres) == [
        (
            "8144",
            "Issue 8144",
            "CLOSED",
            7,
            at("2019-03-18 10:59:01"),
            at("2021-05-12 02:25:37"),
            at("2019-03-18 14:43:52"),
        ),
        ("9", "Issue 9", "OPEN", 0, at("2019-03-18 10:00:00"), at("2019-03-18 10:00:10"), None),
    ]
    middle = at("2019-03-18 10:59:01") + (at("2021-05-12 02:25:37") - at("2019-03-18 10:59:01")) / 2
    assert comments(postgres) == [
        ("8144-1", "8144", middle),
        ("9-1", "9", at("2019-03-18 10:00:02.500000")),
        ("9-2", "9", at("2019-03-18 10:00:05.000000")),
        ("9-3", "9", at("2019-03-18 10:00:07.500000")),
    ]


def test_the_real_file_is_stored_to_the_microsecond_and_again_without_a_change(postgres: psycopg.Connection) -> None:
    path = real_file()
    report = load_issues(postgres, path)
    frame = issue_frame(path)
    assert (report.issues, report.new_issues, report.new_comments, report.bad) == (
        len(frame),
        len(frame),
        frame["comments"].sum(),
        0,
    )
    expected = comment_frame(frame)
    assert {row[0]: row[1:] for row in comments(postgres)} == {
        row.id: (row.issue_id, row.created_at.to_pydatetime()) for row in expected.itertuples()
    }
    before = row_versions(postgres, "app.issues"), row_versions(postgres, "app.comments")
    again = load_issues(postgres, path)
    assert (again.new_issues, again.changed_issues, again.new_comments, again.changed_comments) == (0, 0, 0, 0)
    assert (row_versions(postgres, "app.issues"), row_versions(postgres, "app.comments")) == before


def test_a_made_up_file_of_thousands_of_lines_too(tmp_path: Path, postgres: psycopg.Connection) -> None:
    path = made_up_file(tmp_path / "a.csv", datetime(2021, 1, 1, tzinfo=UTC).date(), 1_500)
    assert load_issues(postgres, path).issues == 4_500
    frame = issue_frame(path)
    found = {row[0]: row[-1] for row in issues(postgres)}
    assert found == {
        row.number: None if row.state == "open" else row.closed_at.to_pydatetime() for row in frame.itertuples()
    }
    assert len(comments(postgres)) == frame["comments"].sum()


def test_columns_may_come_in_any_order_with_a_title_and_a_byte_order_mark(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    header = "\ufeffreactions,comments,state,title, closed_at,updated_at,created_at,number"
    line = '5,0,open,"Fails, ""always""\non Fridays",,2020-01-01 00:00:00,2020-01-01 00:00:00,1'
    load_issues(postgres, write_issues(tmp_path / "a.csv", line, header=header))
    assert [row[:4] for row in issues(postgres)] == [("1", 'Fails, "always"\non Fridays', "OPEN", 5)]
    # A file without titles leaves those that are stored.
    load_issues(postgres, write_issues(tmp_path / "b.csv", "1,2020-01-01 00:00:00,2020-01-01 00:00:00,,open,0,6"))
    assert [row[1:4] for row in issues(postgres)] == [('Fails, "always"\non Fridays', "OPEN", 6)]


def test_a_later_file_updates_issues_moves_comments_and_removes_surplus_ones_of_its_own_only(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    load_issues(postgres, write_issues(tmp_path / "a.csv", GOOD, OPEN))
    postgres.execute("update app.issues set reporter = 'ann' where id = '9'")
    foreign = ["9-x", "9-0", "9-04", "9-4", "9-4-1", "9-1234567", "c"]
    for comment in foreign:
        postgres.execute("insert into app.comments (id, issue_id) values (%s, '9')", (comment,))
    later = "9,2019-03-18 10:00:00,2019-03-19 10:00:00,2019-03-19 09:00:00,closed,1,4"
    report = load_issues(postgres, write_issues(tmp_path / "b.csv", later))
    assert report == LoadReport(1, 0, 0, 1, 0, 1, 2, 0, ())
    query = "select status, view_count, reporter, resolved_at from app.issues where id = '9'"
    assert postgres.execute(query).fetchone() == ("CLOSED", 4, "ann", at("2019-03-19 09:00:00"))
    found = {row[0]: row[2] for row in comments(postgres) if row[1] == "9"}
    assert found.keys() == {"9-1", *foreign}
    assert found["9-1"] == at("2019-03-18 22:00:00")
    # Reopened in a third file.
    load_issues(postgres, write_issues(tmp_path / "c.csv", OPEN))
    assert postgres.execute(query).fetchone() == ("OPEN", 0, "ann", None)
    assert len(issues(postgres)) == 2


BAD = [
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,-1,0", "comments: expected a count of 0 or more, came '-1'"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,1.5,0", "comments: expected an integer, came '1.5'"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,,0", "comments: expected an integer, came ''"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,٣,0", "comments: expected an integer, came '٣'"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,100001,0", "comments: expected at most 100000, came 100001"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,0,-7", "reactions: expected a count of 0 or more, came '-7'"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,0,9223372036854775808", "reactions: expected at most"),
    ("1,2019-02-30 10:59:01,2021-05-12 02:25:37,,open,0,0", "created_at: expected a time such as"),
    ("1,2019-3-18 10:59:01,2021-05-12 02:25:37,,open,0,0", "created_at: expected a time such as"),
    ("1,2019-W12-1 10:59:01,2021-05-12 02:25:37,,open,0,0", "created_at: expected a time such as"),
    ("1,2019-03-18t10:59:01Z,2021-05-12 02:25:37,,open,0,0", "created_at: expected a time such as"),
    ("1,2019-03-18 10:59:01+25:00,2021-05-12 02:25:37,,open,0,0", "created_at: expected a time such as"),
    ("1,18/Mrz/19 10:59 AM,2021-05-12 02:25:37,,open,0,0", "created_at: expected a time such as"),
    ("1,18/Mar/19 13:59 PM,2021-05-12 02:25:37,,open,0,0", "created_at: expected a time such as"),
    (
        "1,,2021-05-12 02:25:37,,open,0,0",
        "created_at: expected a time such as",
    ),
    ("1,2019-03-18 10:59:01,2999-05-12 02:25:37,,open,0,0", "updated_at: expected a time that has passed"),
    (
        "1,2019-03-18 10:59:01,2019-03-18 10:59:00,,open,0,0",
        "updated_at: expected 2019-03-18 10:59:01 (created_at) or later",
    ),
    (
        "1,2019-03-18 10:59:01,2021-05-12 02:25:37,2019-03-18 10:59:00,closed,0,0",
        "closed_at: expected 2019-03-18 10:59:01 (created_at) or later, came 2019-03-18 10:59:00",
    ),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,closed,0,0", "closed_at: expected the time at which"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,soon,closed,0,0", "closed_at: expected a time such as"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,2019-03-18 14:43:52,open,0,0", "closed_at: expected none for an open"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,merged,0,0", "state: expected open or closed, came 'merged'"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,,0,0", "state: expected open or closed, came ''"),
    *(
        (
            f"{number},2019-03-18 10:59:01,2021-05-12 02:25:37,,open,0,0",
            "number: expected digits, or a key such as PROJ-12",
        )
        for number in ("", "x", "-1", "1.0", "7" * 19, "PROJ-", "1-PROJ", "٣", "1\0")
    ),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,op\0en,0,0", "state: expected open or closed"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,0", "expected 7 values, came 6"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,0,0,0", "expected 7 values, came 8"),
    ("1,2019-03-18 10:59:01,2021-05-12 02:25:37,,open,0," + "0" * 140_000, "reactions: expected an integer, came"),
    ('1,2019-03-18 10:59:01,2021-05-12 02:25:37,"",open,0,"0"0', "expected CSV up to line "),
]


def test_bad_lines_are_told_and_the_others_are_loaded(tmp_path: Path, postgres: psycopg.Connection) -> None:
    path = write_issues(tmp_path / "a.csv", OPEN, *(line for line, _ in BAD), GOOD)
    report = load_issues(postgres, path, now=NOW)
    assert [bad.line for bad in report.bad_lines] == list(range(3, 3 + len(BAD)))
    for bad, (_, reason) in zip(report.bad_lines, BAD, strict=True):
        assert bad.reason.startswith(reason)
    assert (report.lines, report.issues, report.bad, report.is_success) == (len(BAD) + 2, 2, len(BAD), False)
    assert [row[0] for row in issues(postgres)] == ["8144", "9"]


def test_a_quote_that_is_never_closed_says_how_far_it_goes(tmp_path: Path, postgres: psycopg.Connection) -> None:
    report = load_issues(postgres, write_issues(tmp_path / "a.csv", OPEN, '"' + GOOD, GOOD, GOOD))
    assert [(bad.line, bad.reason[:31]) for bad in report.bad_lines] == [(3, "expected CSV up to line 5, came")]
    assert report.issues == 1


def test_lines_count_as_an_editor_shows_them(tmp_path: Path, postgres: psycopg.Connection) -> None:
    header = f"{HEADER},title"
    lines = (f'{OPEN},"over\ntwo lines"', "", f"{GOOD},\0")
    report = load_issues(postgres, write_issues(tmp_path / "a.csv", *lines, header=header))
    assert [(bad.line, bad.reason) for bad in report.bad_lines] == [
        (5, "title: expected no NUL character, came one at position 0")
    ]


def test_of_a_number_that_comes_again_with_other_content_the_first_line_counts(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    changed = [OPEN.replace(",3,0", ",3,1"), OPEN.replace("10:00:10", "10:00:11"), OPEN.replace(",3,0", ",2,0")]
    report = load_issues(postgres, write_issues(tmp_path / "a.csv", OPEN, OPEN, changed[0], GOOD, *changed[1:]))
    assert [bad.line for bad in report.bad_lines] == [4, 6, 7]
    assert report.bad_lines[0].reason == "number: expected 9 once, came again with other content than in line 2"
    assert (report.lines, report.issues, report.repeated, report.bad) == (6, 2, 1, 3)
    assert [row[3] for row in issues(postgres)] == [7, 0]


def test_the_id_of_somebodys_comment_is_not_taken_from_it(tmp_path: Path, postgres: psycopg.Connection) -> None:
    load_issues(postgres, write_issues(tmp_path / "a.csv", GOOD))
    postgres.execute("insert into app.comments (id, issue_id) values ('9-2', '8144')")
    path = write_issues(tmp_path / "b.csv", GOOD, OPEN)
    assert load_issues(postgres, path) == LoadReport(2, 0, 1, 0, 3, 0, 0, 0, ())
    query = "select id, issue_id, loaded_number from app.comments where id like '9-%' order by id"
    found = postgres.execute(query).fetchall()
    assert [row[1:] for row in found] == [("9", 1), ("8144", None), ("9", 2), ("9", 3)]
    assert found[2][0].startswith("9-2~")
    assert load_issues(postgres, path) == LoadReport(2, 0, 0, 0, 0, 0, 0, 0, ())


def test_comments_and_issues_of_applications_stay_as_they_are_however_they_are_named(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    load_issues(postgres, write_issues(tmp_path / "a.csv", OPEN.replace(",3,0", ",0,0")))
    for number, author in ((1, "ann"), (2, "bob"), (7, None)):
        postgres.execute(
            "insert into app.comments (id, issue_id, author) values (%s, '9', %s)", (f"9-{number}", author)
        )
    postgres.execute("insert into app.issues (id, title, status) values ('8144', 'ours', 'OPEN')")
    before = comments(postgres), issues(postgres)[0]
    report = load_issues(postgres, write_issues(tmp_path / "b.csv", OPEN.replace(",3,0", ",1,0"), GOOD))
    assert (report.new_comments, report.removed_comments, report.changed_comments) == (1, 0, 0)
    assert report.bad_lines == (
        BadLine(
            3, "number: expected an issue that was loaded before or none with the id 8144, came one of an application"
        ),
    )
    load_issues(postgres, write_issues(tmp_path / "c.csv", OPEN.replace(",3,0", ",0,0")))
    assert (comments(postgres), issues(postgres)[0]) == before


def test_very_many_bad_lines_are_counted_and_the_first_thousand_told(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    report = load_issues(
        postgres, write_issues(tmp_path / "a.csv", GOOD, *["x"] * 2_500, *[GOOD.replace("7", "8")] * 3)
    )
    assert (len(report.bad_lines), report.bad, report.lines, report.issues) == (1_000, 2_503, 2_504, 1)


FILES = [
    (b"", "came none"),
    (HEADER.encode(), "expected at least one issue, came none"),
    (b"a,b\n1,2\n", "line 1: expected the columns number, created_at"),
    (HEADER.replace("state", "phase").encode() + b"\n1,2\n", "missing: state"),
    (f"{HEADER},number\n".encode(), "line 1: expected the columns number, created_at"),
    (f"{HEADER},Number\n".encode(), "twice: number"),
    (b'[{"number": 1}, ', "expected a JSON array of issues"),
    (b"[]", "expected at least one issue, came none"),
    (f"{HEADER}\n{GOOD}\n".encode() + b"\xff\xfe\n", "expected UTF-8"),
    (f"{HEADER}\n{GOOD}\n".encode("utf-16"), "expected UTF-8"),
    (b'"number', "line 1: expected a header"),
    (None, "expected a CSV or JSON file, came: No such file"),
]


def test_a_file_that_cannot_be_used_is_refused_as_a_whole(tmp_path: Path, postgres: psycopg.Connection) -> None:
    for number, (content, reason) in enumerate(FILES):
        path = tmp_path / f"{number}.csv"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(IssueFileError, match=r"^[^\n]+$") as raised:
            load_issues(postgres, path)
        assert str(raised.value).startswith(f"{path}: ")
        assert reason in str(raised.value)
        assert issues(postgres) == []
    # Nothing of them is left to get in the way of the next one.
    assert load_issues(postgres, write_issues(tmp_path / "good.csv", GOOD)).lines == 1


def test_a_folder_is_not_a_file(tmp_path: Path, postgres: psycopg.Connection) -> None:
    with pytest.raises(IssueFileError, match="Is a directory"):
        load_issues(postgres, tmp_path)


TEXT = st.text(max_size=30) | st.sampled_from(
    [
        "open",
        "closed",
        "Done",
        "",
        "0",
        "7",
        "[1, 2]",
        "X-1",
        "18/Mar/19 1:59 PM",
        "2020-01-01T00:00:00+05:30",
        "2020-01-01 00:00:00",
        "2020-06-01 12:30:00",
        "9" * 19,
        "-1",
        "２",
    ]
)
LINES = st.fixed_dictionaries(dict.fromkeys(HEADER.split(","), TEXT), optional={"title": TEXT})


@given(LINES)
def test_any_line_is_an_issue_that_the_tables_take_or_malformed(row: dict[str, str]) -> None:
    try:
        issue = parsed_issue(row, NOW)
    except Malformed:
        return
    assert isinstance(issue, Issue)
    assert 1 <= len(issue.number) <= 50
    assert "\0" not in issue.number + (issue.title or "")
    assert 0 <= (issue.view_count or 0) < 2**63
    assert issue.created_at <= issue.updated_at <= NOW + timedelta(days=1)
    assert (issue.resolved_at is None) == (issue.status in ("OPEN", "IN_PROGRESS"))
    assert issue.resolved_at is None or issue.created_at <= issue.resolved_at


def test_two_loads_at_once_wait_for_each_other(tmp_path: Path, postgres: psycopg.Connection, database_url: str) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("select pg_advisory_xact_lock(hashtext('load issues'))")
        postgres.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            load_issues(postgres, write_issues(tmp_path / "a.csv", GOOD))

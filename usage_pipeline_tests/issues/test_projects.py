"""Issues of several projects: what belongs to which, and what a load without a project refuses."""

from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.issues.file import IssueFileError
from usage_pipeline.issues.load import LoadReport, load_issues
from usage_pipeline_tests.rigs.issues import row_versions, write_issues

ONE = "166,2013-03-18 10:59:01,2013-05-12 02:25:37,,open,2,7"
OTHER = "166,2019-03-18 10:59:01,2019-05-12 02:25:37,,open,1,0"


def issues(postgres: psycopg.Connection) -> list[tuple[object, ...]]:
    query = "select id, loaded_project, loaded_number, view_count from app.issues order by id"
    return postgres.execute(query).fetchall()


def versions(postgres: psycopg.Connection) -> list[list[tuple[object, ...]]]:
    return [row_versions(postgres, table) for table in ("app.issues", "app.comments")]


def test_two_projects_have_the_same_number_side_by_side(tmp_path: Path, postgres: psycopg.Connection) -> None:
    one, other = write_issues(tmp_path / "a.csv", ONE), write_issues(tmp_path / "b.csv", OTHER)
    load_issues(postgres, one, project="vercel/next.js")
    load_issues(postgres, other, project="jest")
    assert issues(postgres) == [("jest#166", "jest", "166", 0), ("vercel/next.js#166", "vercel/next.js", "166", 7)]
    before = versions(postgres)
    for path, project in ((one, "vercel/next.js"), (other, "jest")):
        assert load_issues(postgres, path, project=project) == LoadReport(1, 0, 0, 0, 0, 0, 0, 0, ())
    assert versions(postgres) == before


def test_a_second_file_without_a_project_is_refused_as_a_whole_when_its_numbers_are_other_issues(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    load_issues(postgres, write_issues(tmp_path / "a.csv", ONE))
    before = versions(postgres)
    new = OTHER.replace("166", "9999")
    with pytest.raises(IssueFileError) as raised:
        load_issues(postgres, write_issues(tmp_path / "b.csv", new, OTHER))
    assert str(raised.value) == (
        f"{tmp_path / 'b.csv'}: line 3: number 166 is stored as an issue of 2013-03-18 10:59:01, and came as one of "
        "2019-03-18 10:59:01: give --project NAME for issues of another project. So it is with 1 number of the file; "
        "nothing was loaded"
    )
    assert versions(postgres) == before


def test_a_file_without_a_project_whose_issues_are_stored_for_one_is_refused_too(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    path = write_issues(tmp_path / "a.csv", ONE)
    load_issues(postgres, path, project="next")
    with pytest.raises(IssueFileError, match="is stored for project next: give --project next"):
        load_issues(postgres, path)
    assert len(issues(postgres)) == 1
    # Its number is free for another issue.
    assert load_issues(postgres, write_issues(tmp_path / "b.csv", OTHER)).new_issues == 1


def test_what_was_loaded_without_a_project_is_taken_into_one_and_not_doubled(
    tmp_path: Path, postgres: psycopg.Connection
) -> None:
    path = write_issues(tmp_path / "a.csv", ONE)
    load_issues(postgres, path)
    assert load_issues(postgres, path, project="next") == LoadReport(1, 0, 0, 1, 0, 0, 0, 0, ())
    assert issues(postgres) == [("166", "next", "166", 7)]
    load_issues(postgres, write_issues(tmp_path / "b.csv", OTHER), project="jest")
    assert [row[:2] for row in issues(postgres)] == [("166", "next"), ("jest#166", "jest")]


@pytest.mark.parametrize("project", ["", "a#b", "a b", "x" * 101, "ä", "-x"])
def test_a_project_is_a_short_plain_name(project: str, tmp_path: Path, postgres: psycopg.Connection) -> None:
    with pytest.raises(IssueFileError, match="project: expected 1 to 100 letters, digits"):
        load_issues(postgres, write_issues(tmp_path / "a.csv", ONE), project=project)


def test_the_longest_ids_fit(tmp_path: Path, postgres: psycopg.Connection) -> None:
    number = "P" * 30 + "-" + "9" * 18
    project = "x" * 100
    postgres.execute("insert into app.issues (id, title, status) values ('a', 't', 'OPEN')")
    postgres.execute("insert into app.comments (id, issue_id) values (%s, 'a')", (f"{project}#{number}-100000",))
    line = ONE.replace("166,", f"{number},").replace(",2,7", ",100000,7")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert (
        load_issues(postgres, write_issues(tmp_path / "a.csv", line), project=project, now=now).new_comments == 100_000
    )


@pytest.mark.parametrize("spelling", ["Owner/Name", "owner/name/", "OWNER/NAME"])
def test_another_spelling_of_a_stored_project_is_no_second_project(
    spelling: str, tmp_path: Path, postgres: psycopg.Connection
) -> None:
    path = write_issues(tmp_path / "a.csv", ONE)
    load_issues(postgres, path, project="owner/name")
    before = versions(postgres)
    with pytest.raises(IssueFileError, match=f"project: expected owner/name, as it was loaded before, came {spelling}"):
        load_issues(postgres, path, project=spelling)
    assert versions(postgres) == before

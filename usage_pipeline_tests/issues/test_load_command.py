"""`usage-pipeline load issues` as a person or a script calls it."""

import json
from pathlib import Path

from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.issues import write_issues

GOOD = "8144,2019-03-18 10:59:01,2021-05-12 02:25:37,2019-03-18 14:43:52,closed,1,7"


def test_a_load_prints_a_table_or_one_json_document(run: Run, tmp_path: Path) -> None:
    path = write_issues(tmp_path / "a.csv", GOOD)
    done = run("load", "issues", path)
    assert done.returncode == 0, done.stderr
    assert "Loaded a.csv" in done.stdout
    again = run("load", "issues", path, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == {
        "success": True,
        "issues": 1,
        "lines": 1,
        "repeated": 0,
        "new_issues": 0,
        "changed_issues": 0,
        "new_comments": 0,
        "changed_comments": 0,
        "removed_comments": 0,
        "bad": 0,
        "bad_lines": [],
    }


def test_bad_lines_are_listed_and_end_with_1(run: Run, tmp_path: Path) -> None:
    path = write_issues(tmp_path / "a.csv", GOOD, GOOD.replace("closed", "[bold]shut"))
    done = run("load", "issues", path)
    assert (done.returncode, done.stderr) == (1, "line 3: state: expected open or closed, came '[bold]shut'\n")
    document = json.loads(run("load", "issues", path, "--json").stdout)
    assert (document["success"], document["bad"]) == (False, 1)
    assert document["bad_lines"] == [{"line": 3, "reason": "state: expected open or closed, came '[bold]shut'"}]


def test_a_file_that_cannot_be_used_is_one_line_and_status_2(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", write_issues(tmp_path / "b.csv", header="a,b")):
        done = run("load", "issues", path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert str(path) in done.stderr

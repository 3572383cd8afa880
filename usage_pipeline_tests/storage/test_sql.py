"""The queries of the sql/ folder: each is explained, each is used, and there is no other way to load one."""

import re
from pathlib import Path

import pytest

import usage_pipeline
from usage_pipeline.storage.sql import column_list, composed, load, relation, sql_folder

FILES = sorted(sql_folder().rglob("*.sql"))
NAMES = [str(path.relative_to(sql_folder()).with_suffix("")) for path in FILES]
PACKAGE = Path(usage_pipeline.__file__).parent
# The questions of analysts are asked by a script beside their answers.
SCRIPTS = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "docs").glob("*.py")]
SOURCE = "\n".join(path.read_text() for path in SCRIPTS)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_query_begins_with_what_it_is_for(path: Path) -> None:
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"-- \S.{15,}", first), first
    assert any(not line.startswith("--") and line for line in rest)


# `drain/insert_raw_{family.name}` loads each file that fits.
FOLDERS = {name.partition("/")[0] for name in NAMES}
TEMPLATES = [
    re.sub(r"\\{[^{}]+\\}", "[a-z_]+", re.escape(text))
    for text in re.findall(r"""["']([\w.{}]+/[\w.{}/]+)["']""", SOURCE)
    # What begins with a placeholder is no query, and would fit every name.
    if text.partition("/")[0] in FOLDERS
]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("migrations/")])
def test_a_query_is_used(name: str) -> None:
    assert [template for template in TEMPLATES if re.fullmatch(template, name)], f"no load(...) of {name}"


@pytest.mark.parametrize("asked", sorted(set(re.findall(r"""(?:load|composed)\(\s*f?["']([^"']+)["']""", SOURCE))))
def test_a_query_that_is_asked_for_is_there(asked: str) -> None:
    pattern = re.sub(r"\\{[^{}]+\\}", "[a-z_]+", re.escape(asked))
    assert [name for name in NAMES if re.fullmatch(pattern, name)], f"no sql/{asked}.sql"


def test_a_query_is_read_by_its_name() -> None:
    assert load("drain/insert_sync_batch").startswith("-- The ledger row")
    assert load("drain/insert_sync_batch") is load("drain/insert_sync_batch")


def test_a_query_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        load("drain/no_such_query")


def test_a_query_is_put_together_of_its_parts() -> None:
    query = composed(
        "rollups/sum_window_cost", table=relation("analytics.usage_daily"), window=column_list(["day"], of="t")
    )
    assert 'from "analytics"."usage_daily"\nwhere "t"."day" = %(window)s' in query.as_string()


def test_a_query_without_one_of_its_parts_is_an_error() -> None:
    with pytest.raises(KeyError, match="window"):
        composed("rollups/sum_window_cost", table=relation("analytics.usage_daily"))

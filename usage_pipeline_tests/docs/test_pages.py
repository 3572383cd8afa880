"""The pages that people read: links lead somewhere, what a program writes is current, the README is short."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from usage_pipeline.definitions import build_definitions
from usage_pipeline.settings import Settings

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
_CODE_BLOCK = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def named(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def prose(page: Path) -> str:
    """The page without its blocks of code, in which a bracket is no link and a # no heading."""
    return _CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    for target in _LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, spaces become hyphens, all else that is no letter, digit or hyphen goes."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem_of(page: Path, target: str) -> str | None:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.is_relative_to(PROJECT) or not file.exists():
        return f"{target}: no such file"
    if anchor and anchor not in anchors(file):
        return f"{target}: no such heading"
    return None


def written_by(program: str) -> Any:
    return runpy.run_path(str(DOCS / program))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert [problem for target in links(page) if (problem := problem_of(page, target))] == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    page = DOCS / "README.md"
    assert len(list(links(page))) > 10
    assert problem_of(page, "nowhere.md") == "nowhere.md: no such file"
    assert problem_of(page, "alerts.md#nothing") == "alerts.md#nothing: no such heading"
    assert problem_of(page, "alerts.md#failed-run") is None
    assert problem_of(page, "../README.md#the-two-commands") is None


def test_the_index_names_every_page() -> None:
    assert {DOCS / target for target in links(DOCS / "README.md") if "/" not in target} == set(DOCS.glob("*.md")) - {
        DOCS / "README.md"
    }


def test_every_picture_is_shown_and_has_a_text() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target in links(page) if target.endswith(".png")}
    assert shown == set(DOCS.glob("*.png"))
    assert [named(page) for page in PAGES if "![](" in page.read_text(encoding="utf-8")] == []


def test_the_readme_is_short() -> None:
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 180
    assert max(map(len, lines)) <= 160


def test_the_readme_has_no_date_that_grows_old() -> None:
    """An event of a fixed day is refused one day, and a fixed range is empty for most readers."""
    assert re.findall(r"\b20\d\d-\d\d", (PROJECT / "README.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", ["settings", "commands"])
def test_a_page_that_a_program_writes_is_current(name: str) -> None:
    program = f"write_{name}.py"
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == written_by(program)["page"](), f"run docs/{program}"


def test_the_page_of_settings_has_each_with_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert field.description
        assert re.search(rf"^\| `{name.upper()}` .*\| {re.escape(field.description)} \|$", text, re.MULTILINE), name
    monkeypatch.setattr(Settings.model_fields["drain_chunk_keys"], "description", None)
    with pytest.raises(ValueError, match="drain_chunk_keys: expected a description"):
        written_by("write_settings.py")["page"]()


def test_the_page_of_checks_has_each() -> None:
    text = (DOCS / "checks.md").read_text(encoding="utf-8")
    names = {key.name for key in build_definitions().resolve_asset_graph().asset_check_keys}
    assert len(names) > 10
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_no_page_names_a_machine() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    assert [named(page) for page, text in texts.items() if re.search(r"/(tmp|work|home|Users)/", text)] == []

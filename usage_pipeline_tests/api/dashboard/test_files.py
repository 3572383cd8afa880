"""What the page at `/` loads: little, from here only, and nothing that turns text into markup."""

import re
from pathlib import Path

import pytest

from usage_pipeline.api.dashboard import routes as dashboard
from usage_pipeline_tests.rigs.service import Shared, expect_problem

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"


def test_the_page_loads_and_reaches_nothing_of_others_and_makes_no_markup_from_text(shared: Shared) -> None:
    page = shared.service.client.get("/", headers={"Accept": BROWSER})
    policy = page.headers["content-security-policy"]
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(policy.split("; "))
    assert "frame-ancestors 'none'" in policy
    # What would be written into innerHTML is refused by the browser.
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<script[^>]*>[^<]", page.text), "no inline script"
    assert not re.search(r"\son\w+=|\sstyle=|<style", page.text), "no inline handler or style"
    files = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page.text)
    for name in files:
        answer = shared.service.client.get(f"/{name}")
        assert answer.status_code == 200, name
        assert not re.search(r"https?://(?!www\.w3\.org)", answer.text), name
        assert not re.search(r"\beval\(|new Function\(", answer.text), name
    assert {name.rpartition("/")[2] for name in files} == {"icon.svg", "page.js", "index.css"}
    for name in ("x/..%2F..%2Fauth.py", "x/settings.py", "x/index.html", "settings.py"):
        expect_problem(shared.service.client.get(f"/dashboard/{name}"), 404, "not-found")


def test_the_first_view_of_the_page_is_small(shared: Shared) -> None:
    page = shared.service.client.get("/", headers={"Accept": BROWSER})
    files = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page.text)
    answers = [shared.service.client.get(f"/{name}", headers={"Accept-Encoding": "gzip"}) for name in files]
    assert sum(int(answer.headers["content-length"]) for answer in (page, *answers)) < 200_000


def test_a_page_that_is_not_built_says_how_to_build_it(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dashboard, "BUILT", tmp_path)
    dashboard.page.cache_clear()
    try:
        page = shared.service.client.get("/", headers={"Accept": BROWSER})
    finally:
        dashboard.page.cache_clear()
    assert page.status_code == 200
    assert "python web/build.py" in page.text


def test_the_paths_that_the_page_asks_for_are_there(shared: Shared) -> None:
    page = shared.service.client.get("/", headers={"Accept": BROWSER})
    [script] = re.findall(r'src="(dashboard/[^"]+/page.js)"', page.text)
    asked = set(re.findall(r"[\"`]((?:api/|healthz)[^\"`?$]*)", shared.client.get(f"/{script}").text))
    assert len(asked) >= 10
    assert {path: shared.client.get(f"/{path}").status_code for path in asked} == dict.fromkeys(asked, 200)

"""Pages and files: from memory, packed, kept by browsers for as long as they are the same, and loaded from here only."""

import gzip
import re
from importlib import resources
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from usage_pipeline.api.answers.negotiation import is_known, takes_gzip
from usage_pipeline_tests.rigs.service import Shared, expect_problem

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PAGES = ("/", "/docs")
YEAR = "public, max-age=31536000, immutable"


def asked(shared: Shared, path: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return shared.service.client.get(path, headers={**BROWSER, "Accept-Encoding": "identity", **named})


def files_of(shared: Shared, page: str) -> list[str]:
    found = re.findall(r'(?:src|href)="([^"]+\.\w+)"', asked(shared, page).text)
    assert len(found) >= 3
    return found


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_page_names_its_files_by_relative_addresses_that_are_there(shared: Shared, page: str) -> None:
    for name in files_of(shared, page):
        assert not re.match(r"/|\w+:", name), "under whatever prefix and host the page is"
        answer = asked(shared, urljoin(page, name))
        assert answer.status_code == 200, name
        assert answer.headers["cache-control"] == YEAR


def test_a_page_is_asked_for_each_time_and_sent_once(shared: Shared, page: str) -> None:
    first = asked(shared, page)
    assert first.headers["cache-control"] == "no-cache"
    again = asked(shared, page, If_None_Match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    for name in ("etag", "vary", "cache-control", "content-security-policy"):
        assert again.headers[name] == first.headers[name]
    assert asked(shared, page, If_None_Match='"another"').content == first.content


def test_a_file_comes_packed_to_who_takes_that_and_has_a_tag_for_each_form(shared: Shared) -> None:
    name = next(urljoin("/docs", name) for name in files_of(shared, "/docs") if name.endswith("bundle.js"))
    content = resources.files("fastapi_swagger.resources").joinpath("swagger-ui-bundle.js").read_bytes()
    plain, packed = asked(shared, name), asked(shared, name, Accept_Encoding="br, gzip;q=0.5")
    assert plain.content == packed.content == content
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(content) / 3
    assert plain.headers["etag"] != packed.headers["etag"]
    for answer, takes in ((plain, "identity"), (packed, "gzip")):
        assert "Accept-Encoding" in answer.headers["vary"]
        same = asked(shared, name, If_None_Match=answer.headers["etag"], Accept_Encoding=takes)
        other = asked(
            shared, name, If_None_Match=answer.headers["etag"], Accept_Encoding={"gzip": ""}.get(takes, "gzip")
        )
        assert (same.status_code, other.status_code) == (304, 200)
        assert same.headers["cache-control"] == YEAR


def test_what_is_packed_is_packed_once(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object, **__: object) -> bytes:
        raise AssertionError("it was packed already")

    asked(shared, "/openapi.json")
    names = [urljoin(page, name) for page in PAGES for name in files_of(shared, page)]
    monkeypatch.setattr(gzip, "compress", again)
    monkeypatch.setattr(Path, "read_bytes", again)
    for name in (*names, *PAGES, "/openapi.json"):
        assert asked(shared, name, Accept_Encoding="gzip").status_code == 200


def test_head_is_the_same_without_the_body(shared: Shared) -> None:
    for path in (*PAGES, "/openapi.json", *(urljoin(page, name) for page in PAGES for name in files_of(shared, page))):
        head = shared.service.client.head(path, headers={**BROWSER, "Accept-Encoding": "identity"})
        whole = asked(shared, path)
        assert (head.status_code, head.content) == (200, b""), path
        for name in ("etag", "content-length", "content-type", "cache-control"):
            assert head.headers[name] == whole.headers[name], path


def test_a_file_of_another_version_is_not_kept_under_its_address(shared: Shared) -> None:
    right = next(urljoin("/docs", name) for name in files_of(shared, "/docs") if name.endswith("documentation.js"))
    other = right.replace(right.split("/")[2], "0" * 20)
    assert other != right
    answer = asked(shared, other)
    assert answer.content == asked(shared, right).content, "a page of the version before works on"
    assert answer.headers["cache-control"] == "no-cache"
    for name in (
        "/docs/x/nothing.js",
        "/docs/x/..%2Froutes.py",
        "/docs/x/documentation.html",
        "/swagger/swagger-ui.css",
    ):
        expect_problem(asked(shared, name), 404, "not-found")


def test_the_openapi_document_is_made_once_and_revalidated(shared: Shared) -> None:
    first = asked(shared, "/openapi.json", Accept_Encoding="gzip")
    assert first.headers["content-type"] == "application/json"
    assert first.json()["info"]["title"] == "usage_pipeline"
    assert first.headers["cache-control"] == "no-cache"
    assert (
        asked(shared, "/openapi.json", Accept_Encoding="gzip", If_None_Match=first.headers["etag"]).status_code == 304
    )


def test_the_documentation_holds_no_script_and_style_and_loads_them_from_here_only(shared: Shared) -> None:
    answer = asked(shared, "/docs")
    policy = answer.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"):
        assert part in policy.split("; "), part
    assert not re.search(r"<script[^>]*>[^<]|\son\w+=|\sstyle=|<style", answer.text)
    assert "http" not in policy
    assert not re.search(r"https?:", answer.text)


@pytest.mark.parametrize(
    ("header", "is_taken"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.1", True),
        ("*", True),
        ("gzip;q=0, *", False),
        ("gzip; q=0.0", False),
        ("identity", False),
        ("*;q=0", False),
        ("gzippy", False),
        ("", False),
    ],
)
def test_gzip_is_for_who_asks_for_it(header: str, is_taken: bool) -> None:
    assert takes_gzip(header) is is_taken


@pytest.mark.parametrize(
    ("header", "is_the_same"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False), ("", False)],
)
def test_tags_are_compared_as_a_cache_means_them(header: str, is_the_same: bool) -> None:
    assert is_known('"a"', header) is is_the_same

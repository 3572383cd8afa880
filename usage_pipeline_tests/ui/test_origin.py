"""Which requests the guard refuses, by the rules that browsers follow (Fetch, RFC 6454)."""

import pytest
from starlette.datastructures import Headers

from usage_pipeline.ui.origin import LOOPBACK_NAMES, refusal

HOSTS = LOOPBACK_NAMES | {"dagster.example.com"}
JSON = {"content-type": "application/json"}
PAGE = {"accept": "text/html,application/xhtml+xml", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def answer(method: str, path: str = "/graphql", *, is_websocket: bool = False, **headers: str) -> int:
    """The status of the refusal, or 0. Names of headers have underscores; the Host is that of `dev` unless it is given."""
    raw = [
        (name.replace("_", "-").encode(), value.encode())
        for name, value in ({"host": "127.0.0.1:3000"} | headers).items()
    ]
    found = refusal(method, path, Headers(raw=raw), allowed_hosts=HOSTS, is_websocket=is_websocket)
    return found.status if found else 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:3000", "sec_fetch_site": "same-origin"},
        {"host": "localhost:3000", "origin": "http://localhost:3000"},
        {"host": "[::1]:3000", "origin": "http://[::1]:3000"},
        # Behind a proxy with TLS, which speaks HTTP to us.
        {"host": "Dagster.example.com", "origin": "https://dagster.example.com"},
        {"host": "dagster.example.com:443", "origin": "https://dagster.example.com"},
        {"content_type": "application/json; charset=utf-8"},
    ],
)
def test_json_of_the_page_itself_and_of_programs_is_let_through(headers: dict[str, str]) -> None:
    assert answer("POST", **{"content_type": "application/json"} | headers) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://127.0.0.1:3000.evil.example"},
        {"origin": "http://evil@127.0.0.1:3000"},
        {"origin": "file://"},
        {"origin": "http://["},
        {"sec_fetch_site": "cross-site"},
        # Another port of the same machine.
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "anything"},
    ],
)
def test_pages_of_elsewhere_are_refused_whatever_they_send(headers: dict[str, str]) -> None:
    assert answer("POST", **{"content_type": "application/json"} | headers) == 403
    assert answer("GET", "/logs/a", **headers) == 403
    assert answer("GET", is_websocket=True, **headers) == 403


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        # Dagster takes this for JSON, and a form of any page may send it.
        "text/plain; application/json",
        "text/plain; charset=application/json",
        "application/graphql",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/graphql", "/report_asset_materialization/a", "/x/graphql"])
def test_what_a_form_can_send_is_refused(kind: str, path: str) -> None:
    assert answer("POST", path, content_type=kind) == 415
    assert answer("POST", path) == 415


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:3000", "127.0.0.1.evil.test", "localhost.", "127.0.0.1:3000 ", "a b"]
)
def test_a_name_that_only_leads_here_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name suddenly has our address, and to the browser all is of one origin."""
    same = {"origin": f"http://{host}", "sec_fetch_site": "same-origin"}
    assert answer("POST", host=host, content_type="application/json", **same) == 421
    assert answer("GET", "/", host=host, **PAGE) == 421
    assert answer("GET", is_websocket=True, host=host, **same) == 421


def test_two_hosts_are_refused() -> None:
    raw = [(b"host", b"127.0.0.1"), (b"host", b"evil.test")]
    found = refusal("GET", "/", Headers(raw=raw), allowed_hosts=HOSTS)
    assert found is not None
    assert found.status == 421


def test_a_get_executes_nothing_and_a_link_to_a_page_may_be_anywhere() -> None:
    assert answer("GET") == 405
    assert answer("GET", accept="image/avif,image/webp,*/*") == 405
    assert answer("HEAD") == 405
    assert answer("GET", "/x/graphql/", accept="*/*") == 405
    # GraphiQL.
    assert answer("GET", **PAGE) == 0
    assert answer("GET", "/assets/usage", sec_fetch_site="cross-site", **PAGE) == 0
    frame = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    assert answer("GET", "/", sec_fetch_site="cross-site", **frame) == 403
    assert (
        answer("GET", "/logs/a", sec_fetch_site="cross-site", sec_fetch_mode="no-cors", sec_fetch_dest="script") == 403
    )


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    assert answer(method, content_type="application/json") == 405

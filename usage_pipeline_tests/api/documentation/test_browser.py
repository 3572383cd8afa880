"""The pages in a real browser: behind a proxy that does TLS and adds a prefix, with nothing that their policy forbids."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from usage_pipeline_tests.api.dashboard.usage_rig import complaints
from usage_pipeline_tests.end_to_end.rigs.browser import Browser, open_browser
from usage_pipeline_tests.rigs.service import Service, Shared

PREFIX = "/behind/a/proxy"
# What a proxy takes for itself.
HOP = {"host", "connection", "keep-alive", "transfer-encoding"}


@contextmanager
def tls_proxy(service: Service, folder: Path) -> Iterator[str]:
    """The address under which a proxy answers: it ends TLS, takes the prefix away, and speaks plain HTTP to the service."""

    class Passing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.pass_on()

        def do_POST(self) -> None:
            self.pass_on()

        def do_DELETE(self) -> None:
            self.pass_on()

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404, "not the service's part of this host")
                return
            path = self.path.removeprefix(PREFIX)
            with httpx.Client(trust_env=False, timeout=60) as client:
                url = f"http://127.0.0.1:{service.port}{path}"
                headers = {**sent, "Host": "service.internal"}
                with client.stream(self.command, url, headers=headers, content=body) as answer:
                    body = b"".join(answer.iter_raw())
            self.send_response_only(answer.status_code)
            for name, value in answer.headers.multi_items():
                if name not in HOP | {"content-length"}:
                    self.send_header(name, value)
            if answer.status_code != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    if not shutil.which("openssl"):
        pytest.skip("no openssl here, which makes the certificate of the proxy")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Passing) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}{PREFIX}"
        finally:
            server.shutdown()
            serving.join(20)


@pytest.fixture
def browser(shared: Shared, tmp_path: Path) -> Iterator[Browser]:
    with tls_proxy(shared.service, tmp_path) as url, open_browser(url) as browser:
        yield browser


def test_the_documentation_is_drawn_and_asks_the_service_behind_the_proxy(browser: Browser) -> None:
    browser.open("/docs")
    browser.wait_for("/api/usage/summary", "Store usage events")
    browser.click("Whether the parts work")
    browser.click("Try it out")
    browser.click("Execute")
    # The answer, with its headers, under the address that was asked.
    browser.wait_for(f"{browser.url}/healthz", '"status": "ok"', "x-content-type-options: nosniff")
    assert browser.complaints() == []


def test_the_page_shows_numbers_behind_the_proxy_and_its_token_does_not_come_into_the_documentation(
    browser: Browser, shared: Shared
) -> None:
    browser.open("/")
    browser.wait_for("Database and Redis are up")
    browser.type_after("Token", shared.token)
    browser.click("Open")
    browser.wait_for("No usage is stored yet", "As of", "Latency p95")
    # More than one page of an answer: its address lacks the prefix.
    shared.postgres.execute(
        "insert into usage.api_keys (api_key_id, total_requests) select 'key-' || number, 1 from generate_series(1, 150) number"
    )
    browser.click("Refresh")
    browser.click("API keys")
    browser.click("Show 100 more")
    browser.wait_until("return document.querySelectorAll('tbody tr').length == 150")
    kept = "return Object.values(sessionStorage)"
    browser.click("API documentation")
    browser.look_at_the_newest_tab()
    browser.wait_for("Whether the parts work")
    assert browser.run(kept) == []
    assert browser.run("return Object.values(localStorage)") == []
    assert complaints(browser) == []


def test_a_page_of_somebody_else_can_frame_neither(shared: Shared, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe id="{name}" src="http://127.0.0.1:{shared.service.port}/{name}"></iframe>' for name in ("", "docs")
    )
    (tmp_path / "evil.html").write_text(frames)
    with open_browser(f"file://{tmp_path}") as browser:
        browser.open("/evil.html")
        refused = browser.complaints()
    assert len([one for one in refused if "frame-ancestors" in one or "X-Frame-Options" in one]) == 2, refused

"""Dagster's web server behind its guard, in a real browser: the page works, and no other page can operate it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from usage_pipeline.local.processes.dagster import location_problem
from usage_pipeline.ui.password import hash_password
from usage_pipeline_tests.end_to_end.rigs.browser import open_browser
from usage_pipeline_tests.end_to_end.rigs.dagster_system import LOCATION, DagsterSystem, running_system

SENSOR = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
    sensorState { status } } } }"""
START = """mutation { startSensor(sensorSelector: {repositoryName: "__repository__",
    repositoryLocationName: "usage_pipeline", sensorName: "late_windows"}) { __typename } }"""
WIPE = 'mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["usage", "api_keys"]}}]) { __typename } }'
# What a page can do to a server of another origin, and what it can notice of it.
EVIL = """<!doctype html><title>evil</title><body>
<iframe name=sink></iframe>
<iframe id=framed src="{url}/"></iframe>
<form id=form method=post target=sink enctype=text/plain action="{url}/graphql?query={query}"><input name=a value=b></form>
<p id=done></p>
<script>
const tried = [];
const image = new Promise(end => {{ const one = new Image(); one.onload = one.onerror = end;
    one.src = "{url}/graphql?query={query}"; }});
const body = JSON.stringify({{query: {mutation}}});
const post = (path, options) => fetch("{url}" + path, {{method: "POST", credentials: "include", ...options}});
const sent = (mode, kind) => post("/graphql", {{mode, body, headers: {{"Content-Type": kind}}}})
    .then(answer => tried.push(mode + " " + answer.type), () => tried.push(mode + " failed"));
const report = post("/report_asset_materialization/usage/api_keys", {{mode: "no-cors"}}).then(() => 0, () => 0);
const socket = new Promise(end => {{ const one = new WebSocket("{socket}/graphql", "graphql-ws");
    one.onopen = () => {{ tried.push("socket open"); end(); }};
    one.onerror = () => {{ tried.push("socket refused"); end(); }}; }});
document.getElementById("form").submit();
Promise.all([image, report, socket, sent("no-cors", "text/plain; application/json"), sent("cors", "application/json")])
    .then(() => {{ document.getElementById("done").textContent = "tried: " + tried.sort().join(", "); }});
</script>"""


@pytest.fixture(scope="module")
def system() -> Iterator[DagsterSystem]:
    """One for all tests of this file. Nothing runs by itself: a sensor that is on was turned on by somebody."""
    with running_system(shares_code_server=True) as system:
        system.silence()
        yield system


@contextmanager
def page_of_elsewhere(html: str) -> Iterator[int]:
    """The port of a web server of somebody else, whose only page this is."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


def status_of(system: DagsterSystem) -> str:
    """Whether the sensor of START is RUNNING or STOPPED."""
    found = system.ask(SENSOR, selector={**LOCATION, "sensorName": "late_windows"})["sensorOrError"]
    return str(found["sensorState"]["status"])


def test_requests_of_any_page_change_nothing_and_those_of_the_page_do(system: DagsterSystem) -> None:
    """The first attack of the review: `<img src>` turned a sensor off."""
    elsewhere = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Accept": "image/*"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    json = {"query": START}
    with httpx.Client(base_url=system.url, trust_env=False, timeout=60) as client:
        refused = [
            client.get("/graphql", params=json, headers=elsewhere),
            client.get("/graphql", params=json),
            client.post("/graphql", params=json, headers=form),
            client.post("/graphql", params=json),
            client.post("/graphql", json=json, headers=elsewhere),
            client.post("/graphql", json=json, headers={"Host": "rebound.example"}),
            client.post("/graphql", json=json, headers={"Content-Type": "text/plain; application/json"}),
            client.post("/report_asset_materialization/usage/api_keys"),
            client.post("/report_asset_check/usage/api_keys", params={"check_name": "x", "passed": "true"}),
            client.post("/report_asset_observation/usage/api_keys"),
        ]
        assert [one.status_code for one in refused] == [403, 405, 415, 415, 403, 421, 415, 415, 415, 415]
        assert status_of(system) == "STOPPED"
        # A page: GraphiQL, which executes nothing by itself, and no other page may show it.
        shown = client.get("/graphql", params=json, headers={"Accept": "text/html"})
        assert (shown.status_code, shown.headers["X-Frame-Options"]) == (200, "DENY")
        assert "frame-ancestors 'none'" in client.get("/").headers["Content-Security-Policy"]
        assert status_of(system) == "STOPPED"
        assert client.post("/graphql", json=json, headers={"Origin": system.url}).status_code == 200
    assert status_of(system) == "RUNNING"
    system.turn_off("late_windows")


def test_what_has_no_end_is_refused(system: DagsterSystem) -> None:
    """A head beyond 64 KB, a body beyond 4 MB."""
    with httpx.Client(base_url=system.url, trust_env=False, timeout=60) as client:
        try:
            status = client.get("/", headers={"X-Long": "x" * 200_000}).status_code
        except httpx.TransportError:
            # It closes while we still send.
            status = 400
        assert status in (400, 431)
        large = b'{"query": "' + b"x" * 5_000_000
        assert client.post("/graphql", content=large, headers={"Content-Type": "application/json"}).status_code == 413


def test_a_subscription_is_for_the_page_itself(system: DagsterSystem) -> None:
    address = system.url.replace("http", "ws") + "/graphql"
    for origin in ("https://evil.example", system.url.replace("127.0.0.1", "localhost"), "null"):
        with pytest.raises(InvalidStatus) as refused:
            connect(address, origin=origin, subprotocols=["graphql-ws"], proxy=None)  # type: ignore[arg-type, list-item]
        assert refused.value.response.status_code == 403
    with connect(address, origin=system.url, subprotocols=["graphql-ws"], proxy=None) as own:  # type: ignore[arg-type, list-item]
        own.send('{"type": "connection_init"}')
        assert "connection_ack" in str(own.recv(timeout=30))


def test_a_read_only_server_stays_so_behind_the_guard(system: DagsterSystem) -> None:
    url = system.start_another_webserver("--read-only")
    mutation = {"query": START}
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        answer = client.post("/graphql", json=mutation).raise_for_status().json()
        assert answer["data"]["startSensor"]["__typename"] == "UnauthorizedError"
        assert client.get("/graphql", params=mutation).status_code == 405
    system.kill("another-webserver")


def test_a_person_follows_a_run_live_and_a_page_of_elsewhere_changes_nothing(
    system: DagsterSystem,
) -> None:
    words = {"query": quote(START), "mutation": repr(WIPE), "url": system.url}
    evil = EVIL.format(**words, socket=system.url.replace("http", "ws"))
    with open_browser(system.url) as browser, page_of_elsewhere(evil) as port:
        browser.open("/assets/usage/api_keys")
        browser.wait_for("Running totals per API key")
        run = system.launch_run("drain_now")
        # Whose page takes its events by a subscription. (test_operations.py launches by a click.)
        browser.open(f"/runs/{run}")
        assert system.finished_run(run) == "SUCCESS"
        browser.wait_for("RUN_SUCCESS")
        assert set(browser.handshakes()) == {101}
        before = materializations(system)
        assert before

        # Another port and another name of the same machine, as well as can be had without DNS.
        browser.visit(f"http://localhost:{port}/")
        browser.wait_for("tried: cors failed, no-cors failed, socket refused")
    assert status_of(system) == "STOPPED"
    assert materializations(system) == before


def materializations(system: DagsterSystem) -> list[Any]:
    query = """query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
        assetMaterializations(limit: 50) { runId } } } }"""
    found = system.ask(query, key={"path": ["usage", "api_keys"]})["assetOrError"]["assetMaterializations"]
    # A sensor's come by themselves.
    return [one for one in found if one["runId"]]


def test_with_a_password_nothing_is_shown_without_it_and_the_page_works_with_it(system: DagsterSystem) -> None:
    url = system.start_another_webserver(DAGSTER_UI_PASSWORD_HASH=hash_password("correct horse"))
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        question = {"query": "{ version }"}
        for path in ("/", "/graphql", "/assets/usage/api_keys", "/logs/x"):
            answer = client.get(path, headers={"Accept": "text/html"})
            assert (answer.status_code, "Basic" in answer.headers["WWW-Authenticate"]) == (401, True)
        assert client.post("/graphql", json=question).status_code == 401
        assert client.post("/graphql", json=question, auth=("ops", "wrong")).status_code == 401
        assert client.post("/graphql", json=question, auth=("ops", "correct horse")).status_code == 200
        assert client.get("/server_info").status_code == 200, "probes have no password"
    assert location_problem(url) is None, "`dev` has no password, and waits for nothing more"
    with open_browser(url) as browser:
        # As if typed into the browser's own question. A page with a password in its address may fetch nothing.
        browser.visit(url.replace("http://", "http://ops:correct%20horse@"))
        browser.open("/assets/usage/api_keys")
        browser.wait_for("Running totals per API key")
        run = system.launch_run("drain_now")
        browser.open(f"/runs/{run}")
        browser.wait_for("RUN_SUCCESS")
        assert set(browser.handshakes()) == {101}
    system.kill("another-webserver")

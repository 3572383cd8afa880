"""`/month`: the cost of a month by team without JavaScript; who is not signed in does so by a form, on this page only."""

import html
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest

from usage_pipeline.access.invitations import Person, invite
from usage_pipeline.api.month import costs
from usage_pipeline.bindings import Bounds
from usage_pipeline.settings import load_settings
from usage_pipeline_tests.api.dashboard.quarter import month_before, month_start
from usage_pipeline_tests.api.dashboard.usage_rig import AXE, HOSTILE, cost_of, store
from usage_pipeline_tests.api.session.people import by_proxy
from usage_pipeline_tests.end_to_end.rigs.browser import FAR_HOST, Browser, open_browser
from usage_pipeline_tests.rigs.clock import today
from usage_pipeline_tests.rigs.events import event
from usage_pipeline_tests.rigs.service import Shared, expect_problem, new_token, serving

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TEAMS = ("search", "billing", HOSTILE)
GONE, UNPRICED = "gone", 7
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sent(shared: Shared) -> Events:
    this, last, before = month_start(today()), month_before(today()), month_before(month_before(today()))
    events = []
    for first, factor in ((this, 3), (last, 2), (before, 1)):
        for place, team in enumerate(TEAMS, 1):
            events += [_on(first, team=team, input_tokens=90_000 // place) for _ in range(factor * 4)]
    events += [_on(this, team="search", provider="house", model="house-model-1") for _ in range(UNPRICED)]
    events += [_on(last, team=GONE)]
    store(shared, events)
    return events


def _on(day: date, **members: Any) -> dict[str, Any]:
    """At midnight, which is over on the first of a month as well."""
    return event(event_time=f"{day}T00:00:00+00:00", **members)


@pytest.fixture
def client(shared: Shared) -> Iterator[httpx.Client]:
    """A browser that asks for pages, with a jar of its own, and nobody signed in."""
    with _client(shared.service.port) as client:
        yield client


def _client(port: int, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False, headers={**HTML, **headers})


def entered(client: httpx.Client, text: str, **headers: str) -> httpx.Response:
    return client.post("/month", data={"token": text}, headers=headers)


def lines(page: str) -> dict[str, list[str]]:
    """The cells of each line of the table by its name."""
    found = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", page)
    return {
        html.unescape(re.sub("<.*?>", "", name)): re.findall(r"<td[^>]*>(.*?)</td>", cells) for name, cells in found
    }


def of_month(events: Events, first: date, team: str) -> Events:
    return [one for one in events if one["event_time"][:7] == f"{first:%Y-%m}" and one["team"] == team]


def money(shown: str) -> Decimal:
    return Decimal(0) if shown == "–" else Decimal(shown.strip("$").replace(",", ""))


def expect_numbers(page: str, events: Events, first: date, *teams: str) -> None:
    shown = lines(page)
    assert set(shown) == {*teams, "Total"}
    before = month_before(first)
    whole = sum(cost_of(of_month(events, first, team)) for team in teams)
    for team in teams:
        requests, cost, share, cost_before = shown[team]
        now = of_month(events, first, team)
        assert requests == (f"{len(now):,}" if now else "–")
        assert abs(money(cost) - cost_of(now)) <= Decimal("0.005")
        assert share == (f"{100 * cost_of(now) / whole:.1f}%" if now else "–")
        assert abs(money(cost_before) - cost_of(of_month(events, before, team))) <= Decimal("0.005")
    assert abs(money(shown["Total"][1]) - whole) <= Decimal("0.005")


def test_the_month_by_team_is_what_was_sent(shared: Shared, client: httpx.Client, sent: Events) -> None:
    answer = entered(client, shared.token)
    assert (answer.status_code, answer.headers["location"]) == (303, "month")
    page = client.get("/month")
    assert page.status_code == 200
    expect_numbers(page.text, sent, month_start(today()), *TEAMS, GONE)
    assert f"Not in the cost, since no price is known: {UNPRICED} requests" in page.text
    assert "is not over" in page.text
    assert re.search(rf"As of {today().day} \w+ {today().year}, \d\d:\d\d, UTC", page.text)
    last = month_before(today())
    assert f"?month={last:%Y-%m}" in page.text
    older = client.get(f"/month?month={last:%Y-%m}").text
    expect_numbers(older, sent, last, *TEAMS, GONE)
    assert "is not over" not in older
    assert f"?month={today():%Y-%m}" in older, "the way back"
    oldest = client.get("/month?month=2000-01").text
    assert "No usage in these two months." in oldest
    assert "1999" not in oldest


def test_names_are_text_and_the_page_runs_and_reaches_nothing(
    shared: Shared, client: httpx.Client, sent: Events
) -> None:
    entered(client, shared.token)
    page = client.get("/month")
    assert "<img" not in page.text
    assert "<script" not in page.text
    assert html.escape(HOSTILE, quote=False) in page.text
    policy = page.headers["content-security-policy"]
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    }
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"(?:href|action|src)=\"(?:/|https?:)", page.text), "relative, for a proxy with a prefix"


def test_of_very_many_teams_the_dearest_are_shown(
    shared: Shared, client: httpx.Client, sent: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "MOST_TEAMS", 2)
    entered(client, shared.token)
    page = client.get("/month").text
    assert list(lines(page)) == [*TEAMS[:2], "Total"]
    assert "These are the 2 teams with the highest cost, of 4; the total is theirs." in page


def test_a_bound_token_sees_its_own_team_and_its_data_time_is_a_whole_hour(
    shared: Shared, client: httpx.Client, sent: Events
) -> None:
    entered(client, new_token(shared.postgres, "read", bounds=Bounds(teams=("billing",))))
    page = client.get("/month").text
    assert set(lines(page)) == {"billing", "Total"}
    assert lines(page)["billing"][2] == "100.0%"
    assert "You see only what belongs to team billing." in page
    assert not any(team in html.unescape(page) for team in ("search", HOSTILE, GONE))
    assert re.search(r"As of [^<]*:00, UTC", page)


def test_who_is_not_signed_in_gets_the_form_and_a_program_a_problem(shared: Shared, client: httpx.Client) -> None:
    page = client.get("/month")
    assert page.status_code == 401
    assert 'action="month"' in page.text
    assert 'role="alert"' not in page.text, "nothing is wrong yet"
    expect_problem(client.get("/month", headers={"Accept": "*/*"}), 401, "unauthorized")
    unknown = entered(client, "upt_000000000000_" + "A" * 43)
    assert unknown.status_code == 401
    assert "unknown, expired or revoked" in unknown.text
    assert "A" * 43 not in unknown.text, "what was typed is not said again"
    assert not client.cookies
    assert entered(client, new_token(shared.postgres, "ingest")).status_code == 403
    assert entered(client, "two words").status_code == 422
    client.cookies.set("usage_session", "ups_" + "A" * 43)
    ended = client.get("/month")
    assert ended.status_code == 401
    assert "sign in again" in ended.text
    assert "Max-Age=0" in ended.headers["set-cookie"]


def test_a_wrong_month_says_what_is_expected(shared: Shared, client: httpx.Client, sent: Events) -> None:
    entered(client, shared.token)
    after = (today().replace(day=28) + timedelta(days=10)).strftime("%Y-%m")
    for given in ("2026", "2026-13", "0000-01", "1999-12", after, "", "<script>", "٢٠٢٦-01"):
        answer = client.get("/month", params={"month": given})
        assert answer.status_code == 422, given
        assert "as YYYY-MM" in answer.text
        assert "<script" not in answer.text
    assert client.get("/month?from=2026-01-01").status_code == 422


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        # Over http there is no Fetch Metadata.
        ({"Origin": "http://{host}"}, 303),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        # A browser for text.
        ({}, 303),
    ],
    ids=str,
)
def test_no_page_of_elsewhere_signs_anybody_in_or_out(
    shared: Shared, client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    said = {name: value.replace("{host}", client.base_url.netloc.decode()) for name, value in headers.items()}
    assert entered(client, shared.token, **said).status_code == status
    assert bool(client.cookies) == (status == 303)
    if not client.cookies:
        entered(client, shared.token)
    assert client.post("/month", data={"sign-out": "1"}, headers=said).status_code == status
    assert client.get("/month").status_code == (401 if status == 303 else 200)


def test_the_form_takes_nothing_else(shared: Shared, client: httpx.Client) -> None:
    sent = {"token": shared.token}
    assert client.post("/month", json=sent).status_code == 415
    assert client.post("/month", data={**sent, "more": "1"}).status_code == 422
    assert client.post("/month", data={}).status_code in (415, 422)
    assert client.post("/month", data={"token": "x" * 5_000}).status_code == 413
    assert client.post("/month?token=x", data=sent).status_code == 422
    assert not client.cookies


def test_an_invitation_is_taken_as_its_whole_link_and_once(shared: Shared, client: httpx.Client) -> None:
    code = invite(shared.postgres, Person("ada", bounds=Bounds(teams=("search",)))).code
    assert entered(client, f"https://usage.example.com/#invite={code}").status_code == 303
    [cookie] = list(client.cookies.jar)
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert "team search" in client.get("/month").text
    again = entered(client, code)
    assert again.status_code == 410
    assert "it was used" in again.text
    assert entered(client, "upi_" + "A" * 43).status_code == 401


def test_whom_a_proxy_names_is_signed_in_and_signs_out_there(shared: Shared, sent: Events) -> None:
    settings = shared.settings.model_copy(update={"trusted_user_header": "X-User", "trusted_proxies": "127.0.0.1"})
    by_proxy(shared.postgres, "ada", bounds=Bounds(teams=("search",)))
    with serving(settings) as service, _client(service.port, **{"X-User": "ada"}) as client:
        page = client.get("/month")
        assert page.status_code == 200
        assert set(lines(page.text)) == {"search", "Total"}
        assert "Sign out" not in page.text


def test_a_month_has_the_days_of_the_time_zone(servers: Any, databases: Any) -> None:
    zone = ZoneInfo("Pacific/Kiritimati")
    name = databases.take()
    url = servers.postgres.url(name)
    settings = load_settings(database_url=url, redis_url=servers.redis_url, usage_timezone=zone.key)
    first = datetime.now(zone).date().replace(day=1)
    last = month_before(first)
    midnight = datetime(last.year, last.month, 1, tzinfo=zone).astimezone(UTC)
    with (
        psycopg.connect(url, autocommit=True) as postgres,
        serving(settings) as service,
        _client(service.port) as client,
    ):
        postgres.execute("update ops.calendar set time_zone = %s", (zone.key,))
        token = new_token(postgres, "read")
        one = Shared(service, service.client, token, postgres, None, settings)  # type: ignore[arg-type]
        moments = [midnight - timedelta(seconds=1), midnight, midnight + timedelta(hours=1)]
        store(one, [event(event_time=at.isoformat(), team="search") for at in moments])
        entered(client, token)
        assert lines(client.get(f"/month?month={last:%Y-%m}").text)["search"][0] == "2"
        assert lines(client.get(f"/month?month={month_before(last):%Y-%m}").text)["search"][0] == "1"
        assert zone.key in client.get("/month").text
    databases.drop(name)


@pytest.fixture(scope="module")
def plain(shared: Shared, sent: Events) -> Iterator[Browser]:
    """A browser in which JavaScript is off, and which reaches the service over http as one of another machine."""
    with open_browser(f"http://{FAR_HOST}:{shared.service.port}", has_scripts=False) as browser:
        yield browser


def test_a_browser_without_javascript_comes_from_the_dashboard_signs_in_and_reads(
    shared: Shared, plain: Browser
) -> None:
    plain.open("/")
    plain.wait_for("This page needs JavaScript")
    plain.follow_link_to("month")
    plain.wait_for("Sign in")
    plain.type_after("Token or link", shared.token)
    plain.click("Open")
    plain.wait_for("by team", "search", HOSTILE)
    plain.follow_link_to(f"month={month_before(today()):%Y-%m}")
    plain.wait_for(f"{month_before(today()):Cost of %B %Y by team}")
    plain.click("Sign out")
    plain.wait_for("Token or link")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 360])
def test_axe_finds_no_fault_and_nothing_is_wider_than_the_page(
    shared: Shared, sent: Events, theme: str, width: int
) -> None:
    # Axe itself is a script. The page has none, so that it is the same.
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        browser.set_width(width)
        browser.set_theme(theme)
        browser.open("/month")
        browser.wait_for("Token or link")
        assert browser.faults_by_axe(AXE) == []
        assert browser.run("return document.documentElement.scrollWidth") == width
        browser.type_after("Token or link", shared.token)
        browser.click("Open")
        browser.wait_for("by team", HOSTILE)
        assert browser.faults_by_axe(AXE) == []
        assert browser.run("return document.documentElement.scrollWidth") == width

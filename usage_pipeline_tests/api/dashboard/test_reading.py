"""That everybody can read the page: by the keyboard, on a telephone, in the dark, with a screen reader, with nothing stored."""

from collections.abc import Iterator
from typing import Any

import pytest

from usage_pipeline.bindings import Bounds
from usage_pipeline_tests.api.dashboard.usage_rig import (
    AXE,
    HOSTILE,
    TEAMS,
    at,
    complaints,
    settled,
    sign_in,
    store,
    tiles,
)
from usage_pipeline_tests.end_to_end.rigs.browser import Browser, open_browser
from usage_pipeline_tests.rigs.service import Shared, new_token


@pytest.fixture
def stranger(shared: Shared) -> Iterator[Browser]:
    """Who is not signed in."""
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        browser.open("/")
        browser.wait_for("Sign in")
        yield browser


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 360])
def test_axe_finds_no_fault_and_nothing_is_wider_than_the_page(browser: Browser, theme: str, width: int) -> None:
    browser.set_width(width)
    browser.set_theme(theme)
    settled(browser)
    assert browser.faults_by_axe(AXE) == []
    browser.run("for (const one of document.querySelectorAll('.figure [aria-pressed]')) one.click()")
    browser.click("Show requests")
    browser.click("+ Add filter")
    browser.wait_until("return document.querySelector('.search') && document.querySelectorAll('table').length > 6")
    settled(browser)
    assert browser.faults_by_axe(AXE) == []
    assert browser.run("return document.documentElement.scrollWidth") == width
    wider = "return [...document.querySelectorAll('.card, .tile')].filter(one => one.scrollWidth > one.clientWidth)"
    assert browser.run(f"{wider}.map(one => one.outerHTML)") == []
    browser.click_at("section[aria-labelledby=requests-title] tbody .quiet")
    browser.wait_for("eventId")
    assert browser.faults_by_axe(AXE) == []
    assert complaints(browser) == []


def test_the_box_to_sign_in_has_no_fault_either_and_takes_no_nonsense(stranger: Browser) -> None:
    assert stranger.faults_by_axe(AXE) == []
    stranger.type_after("Token", "two words")
    stranger.click("Open")
    stranger.wait_for("This is not a token")
    stranger.run("document.querySelector('#token').value = ''")
    stranger.type_after("Token", "upt_unknown")
    stranger.click("Open")
    stranger.wait_for("This token is unknown, expired or revoked")


def test_the_arrow_keys_read_the_values_of_a_chart(browser: Browser) -> None:
    browser.run("document.querySelector('.figure.large .plot').focus()")
    browser.press("\ue010")  # End
    browser.press("\ue012")  # Left: yesterday
    said = "return document.querySelector('.figure.large [aria-live]').innerText"
    browser.wait_until(f"{said}.includes('{TEAMS[0]} $')")
    assert "total $" in str(browser.run(said))
    browser.wait_until("return document.querySelector('.figure.large .readout').innerText.includes('Total')")
    browser.press("\ue00c")  # Escape
    browser.wait_until("return !document.querySelector('.readout')")


def test_a_chart_is_drawn_for_the_width_there_is(browser: Browser) -> None:
    script = "return [...document.querySelectorAll('canvas')].every(one => one.clientWidth {} )"
    browser.wait_until(script.format("> 400"))
    browser.set_width(360)
    browser.wait_until(script.format("< 340"))


def test_the_browser_lets_nothing_turn_text_into_markup(browser: Browser) -> None:
    attempt = (
        "try { document.createElement('p').innerHTML = '<b>x</b>'; return 'made' } catch (error) { return error.name }"
    )
    assert browser.run(attempt) == "TypeError"


def test_what_cannot_be_grouped_is_a_sentence_with_a_way_back(browser: Browser) -> None:
    shown = tiles(browser)
    browser.open("/?group_by=api_key,error_type")
    browser.wait_for("Go back")
    told = browser.run("return document.querySelector('[role=alert]').innerText")
    assert len(str(told).split()) > 5
    browser.click("Go back")
    browser.wait_for("By team")
    settled(browser)
    assert tiles(browser) == shown


def test_a_bound_token_sees_what_is_its_own_and_no_tab_of_others(shared: Shared, browser: Browser) -> None:
    browser.click("Sign out")
    browser.wait_for("Sign in")
    browser.type_after("Token", new_token(shared.postgres, "read", bounds=Bounds(teams=(TEAMS[4],))))
    browser.click("Open")
    browser.wait_for("As of", TEAMS[4])
    settled(browser)
    shown = str(browser.run("return document.body.innerText"))
    assert TEAMS[0] not in shown
    assert browser.run("return document.querySelector('nav')") is None, "Usage alone"
    assert "may not see" not in shown


@pytest.fixture
def hostile(shared: Shared, sent: list[dict[str, Any]]) -> None:
    store(shared, [at(1, team=HOSTILE, service="a-service-with-a-name-that-is-quite-long-" * 3)])


def test_names_of_others_are_text_and_long_ones_do_not_widen_the_page(shared: Shared, hostile: None) -> None:
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        sign_in(browser, shared.token, "?group_by=team,service")
        browser.wait_for(HOSTILE)
        browser.set_width(360)
        settled(browser)
        assert browser.run("return document.querySelectorAll('img').length") == 0
        assert browser.run("return document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("metric", ["nonsense", "__proto__", ""])
def test_a_metric_that_nobody_knows_is_the_usual_one(browser: Browser, metric: str) -> None:
    browser.open(f"/?metric={metric}")
    browser.wait_for("By team", "Cost by day")
    settled(browser)
    assert "metric=" not in browser.address()
    assert complaints(browser) == []

"""Signing in to the page: by a token, which becomes a cookie, and by the link of an invitation."""

from collections.abc import Iterator
from typing import Any

import pytest

from usage_pipeline.access.invitations import Person, invite
from usage_pipeline.bindings import Bounds
from usage_pipeline_tests.api.dashboard.usage_rig import TEAMS, complaints, settled
from usage_pipeline_tests.end_to_end.rigs.browser import Browser, open_browser
from usage_pipeline_tests.rigs.service import Shared

KEPT = "return [...Object.values(sessionStorage), ...Object.values(localStorage), document.cookie].join('')"


@pytest.fixture
def guest(shared: Shared, sent: list[dict[str, Any]]) -> Iterator[Browser]:
    """A browser that nobody is signed in with."""
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        yield browser


def test_a_token_becomes_a_cookie_that_no_script_reads_and_signing_out_ends_it(browser: Browser) -> None:
    assert browser.run(KEPT) == ""
    browser.reload()
    browser.wait_for("By team", TEAMS[0])
    settled(browser)
    browser.click("Sign out")
    browser.wait_for("Sign in")
    browser.reload()
    browser.wait_for("Sign in")
    assert complaints(browser) == []


def test_the_link_of_an_invitation_signs_in_once_and_leaves_no_trace_in_the_address(
    shared: Shared, guest: Browser
) -> None:
    code = invite(shared.postgres, Person("ada", bounds=Bounds(teams=(TEAMS[2],)))).code
    guest.open(f"/?group_by=service#invite={code}")
    guest.wait_for("By service", f"You see only what belongs to team {TEAMS[2]}.")
    assert code not in guest.address()
    settled(guest)
    guest.click("Sign out")
    guest.wait_for("Sign in")
    guest.visit("about:blank")
    guest.open(f"/#invite={code}")
    guest.wait_for("This invite was used already, or is older than a day.")
    assert code not in guest.address()


def test_who_is_signed_in_and_opens_a_link_is_asked_first_and_the_session_before_ends(
    shared: Shared, browser: Browser
) -> None:
    code = invite(shared.postgres, Person("grace", bounds=Bounds(teams=(TEAMS[1],)))).code
    open_sessions = "select count(*) from usage.sessions"
    before = shared.postgres.execute(open_sessions).fetchone()
    browser.visit("about:blank")
    browser.open(f"/#invite={code}")
    browser.wait_for("You are signed in as", "leave the invite unused")
    browser.click("Stay")
    browser.wait_for("By team", TEAMS[0])
    assert "You see only" not in str(browser.run("return document.body.innerText"))
    browser.visit("about:blank")
    browser.open(f"/#invite={code}")
    browser.click("Use the invite")
    browser.wait_for(f"You see only what belongs to team {TEAMS[1]}.")
    assert shared.postgres.execute(open_sessions).fetchone() == before
    # The second click on the link in a mail.
    browser.visit("about:blank")
    browser.open(f"/#invite={code}")
    browser.wait_for("You are signed in as grace")
    browser.click("Stay")
    browser.wait_for(f"You see only what belongs to team {TEAMS[1]}.")
    assert complaints(browser) == []

"""The page before there is anything, and the tabs that come with the data."""

from collections.abc import Iterator

import pytest

from usage_pipeline_tests.api.dashboard.usage_rig import AXE, at, complaints, settled, sign_in, store
from usage_pipeline_tests.end_to_end.rigs.browser import Browser, open_browser
from usage_pipeline_tests.rigs.clock import days_ago
from usage_pipeline_tests.rigs.service import Shared

STORED = (
    "insert into usage.api_keys (api_key_id, total_requests, last_used_at) values ('key-1', 1234, now())",
    "insert into usage.merchant_usage (merchant_id, date, metric_type, metric_value) "
    "values ('shop', %(yesterday)s, 'orders', 5678)",
    "insert into stats.daily_issue_stats (date, created_count, resolved_count, comment_count) values (%(yesterday)s, 5, 2, 1)",
)


@pytest.fixture
def browser(shared: Shared) -> Iterator[Browser]:
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        sign_in(browser, shared.token)
        browser.wait_for("Single requests")
        settled(browser)
        yield browser


def test_with_nothing_stored_the_page_says_how_to_send_a_first_event(shared: Shared, browser: Browser) -> None:
    browser.wait_for("No usage is stored yet", "/api/v1/ingest/requests:bulk")
    assert browser.faults_by_axe(AXE) == []
    store(shared, [at(70)])
    browser.click("Refresh")
    browser.wait_for("No usage on these days.")
    browser.click("Show these days")
    browser.wait_for("search")
    assert str(days_ago(70)) in browser.address()


def test_a_tab_is_there_when_it_has_something_to_show(shared: Shared, browser: Browser) -> None:
    # A tile has the word as well, and may be there before the tabs.
    browser.wait_until("return document.querySelector('nav')?.innerText.includes('Tokens')")
    for tab in ("API keys", "Merchants", "Issues"):
        assert tab not in str(browser.run("return document.querySelector('nav').innerText"))
    for statement in STORED:
        shared.postgres.execute(statement, {"yesterday": days_ago(1)})
    browser.click("Refresh")
    for tab, shown in (
        ("API keys", "1,234"),
        ("Merchants", "5,678"),
        ("Issues", "Popular issues"),
        ("Tokens", "test"),
    ):
        browser.wait_for(tab)
        browser.click(tab)
        browser.wait_for(shown)
        settled(browser)
        assert browser.faults_by_axe(AXE) == []
    browser.go_back()
    browser.wait_for("Popular issues")
    assert complaints(browser) == []

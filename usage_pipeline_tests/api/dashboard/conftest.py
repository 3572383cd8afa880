"""One service with known usage for all tests of a file, and a browser that is signed in."""

from collections.abc import Iterator
from typing import Any

import pytest

from usage_pipeline_tests.api.dashboard.usage_rig import complaints, settled, sign_in, store, usage
from usage_pipeline_tests.end_to_end.rigs.browser import Browser, open_browser
from usage_pipeline_tests.rigs.service import Shared


@pytest.fixture(scope="module")
def sent(shared: Shared) -> list[dict[str, Any]]:
    events = usage()
    store(shared, events)
    return events


@pytest.fixture
def browser(shared: Shared, sent: list[dict[str, Any]]) -> Iterator[Browser]:
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        sign_in(browser, shared.token)
        browser.wait_for("As of", "Single requests")
        settled(browser)
        assert complaints(browser) == []
        yield browser

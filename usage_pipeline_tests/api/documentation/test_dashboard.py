"""What the dashboard says of costs, in a real browser: three of them side by side, what is not in them, and other units."""

from collections.abc import Iterator
from typing import Any

import pytest

from usage_pipeline.bindings import Bounds
from usage_pipeline_tests.end_to_end.rigs.browser import Browser, open_browser
from usage_pipeline_tests.rigs.clock import days_ago
from usage_pipeline_tests.rigs.service import Shared, new_token

COLUMNS = (
    "usage_date, team, service, provider, model, requests, errors, input_tokens, output_tokens, total_tokens, "
    "distinct_users, cost_usd, list_cost_usd, reported_cost_usd, reported_requests, unpriced_requests, unlisted_requests, "
    "other_units"
)
ROWS: list[tuple[Any, ...]] = [
    (
        "openai",
        "gpt-4o",
        1_200,
        12,
        700_000,
        50_000,
        750_000,
        9,
        "3.51",
        "3.465",
        "0.09",
        30,
        0,
        0,
        '{"web_searches": 40}',
    ),
    ("openai", "gpt-4o", 1, 0, 9, 1, 10, 1, "0.5", None, "0.5", 1, 0, 1, '{"web_searches": 2, "audio_seconds": 12.5}'),
    ("house", "a-model-with-a-name-that-is-quite-long", 7, 0, 90, 10, 100, 1, None, None, None, 0, 7, 7, None),
]


@pytest.fixture
def browser(shared: Shared) -> Iterator[Browser]:
    shared.postgres.execute("truncate analytics.usage_daily")
    for number, row in enumerate(ROWS):
        places = ", ".join(["%s"] * (len(row) + 3))
        shared.postgres.execute(
            f"insert into analytics.usage_daily ({COLUMNS}) values ({places})", (days_ago(number), "t", "s", *row)
        )
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        browser.open("/")
        browser.type_after("Token", shared.token)
        browser.click("Open")
        browser.wait_for("As of", "gpt-4o")
        yield browser


def tiles(browser: Browser) -> dict[str, list[str]]:
    found = browser.run(
        "return [...document.querySelectorAll('.tile')].map(tile => [...tile.children].map(one => one.innerText))"
    )
    assert isinstance(found, list)
    return {name: [figure, aside] for name, figure, aside in found}


def test_three_costs_stand_side_by_side_and_say_what_is_not_in_them(browser: Browser) -> None:
    shown = tiles(browser)
    assert shown["LLM cost"] == ["$4.01", "not in it: 7 requests without a price"]
    assert shown["LLM list price"] == ["$3.47", "not in it: 8 requests without a list price"]
    assert shown["LLM cost reported"] == ["$0.59", "by senders, for 31 requests"]
    lines = browser.run(
        "return [...document.querySelectorAll('#models tr')].map(line => line.innerText.split(/[\\n\\t]+/))"
    )
    assert lines == [
        ["Model", "Requests", "Tokens", "Cost", "List price", "Reported"],
        ["gpt-4o", "openai · 12.5 audio seconds · 42 web searches", "1,201", "750K", "$4.01", "$3.47", "$0.59"],
        [ROWS[2][1], "house", "7", "100", "no price", "no price", "–"],
    ]
    assert browser.complaints() == []


def test_on_a_telephone_charts_and_tables_scroll_and_nothing_else_is_wider_than_its_place(browser: Browser) -> None:
    browser.set_width(360)
    assert browser.run("return document.documentElement.scrollWidth") == 360
    wider = "return [...document.querySelectorAll('.tile')].some(tile => tile.scrollWidth > tile.clientWidth)"
    assert browser.run(wider) is False
    sizes = browser.run(
        "return ['requests', 'models'].map(name => document.getElementById(name))"
        ".map(box => [box.clientWidth, box.scrollWidth])"
    )
    assert isinstance(sizes, list)
    [chart, table] = sizes
    # As wide as its card, not what a legend leaves over.
    assert chart[0] == table[0]
    assert min(chart[1], table[1]) > table[0]


def test_with_a_bound_token_the_page_shows_what_it_may_says_so_and_has_no_faults(
    shared: Shared, browser: Browser
) -> None:
    shared.postgres.execute("update analytics.usage_daily set team = 'mine' where requests = 7")
    browser.click("Forget token")
    browser.type_after("Token", new_token(shared.postgres, "read", bounds=Bounds(teams=("mine",))))
    browser.click("Open")
    browser.wait_for("This token is bound to some teams, services or users", "As of", ROWS[2][1])
    assert list(tiles(browser)) == ["LLM requests", "LLM tokens", "LLM cost", "LLM list price", "LLM cost reported"]
    assert tiles(browser)["LLM requests"][0] == "7"
    shown = browser.run("return document.body.innerText")
    assert isinstance(shown, str)
    for word in ("gpt-4o", "API keys", "Popular issues", "Issue flow", "may not read"):
        assert word not in shown
    assert browser.complaints() == []
    browser.click("Forget token")
    browser.type_after("Token", shared.token)
    browser.click("Open")
    browser.wait_for("Popular issues", "Issue flow", "gpt-4o")
    assert "This token is bound" not in str(browser.run("return document.body.innerText"))
    assert len(tiles(browser)) == 8

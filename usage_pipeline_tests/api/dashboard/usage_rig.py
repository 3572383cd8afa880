"""Usage that the page shows, stored through the real paths, and what a person reads off the page."""

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from usage_pipeline.events.ingest.batches import EVENTS, ingest
from usage_pipeline_tests.end_to_end.rigs.browser import Browser
from usage_pipeline_tests.reporting.reporting_rig import roll_up
from usage_pipeline_tests.rigs.clock import days_ago
from usage_pipeline_tests.rigs.events import as_items, event, list_cost
from usage_pipeline_tests.rigs.places import PROJECT
from usage_pipeline_tests.rigs.service import Shared

AXE = PROJECT / "web" / "node_modules" / "axe-core" / "axe.min.js"
TEAMS = [f"team-{number:02}" for number in range(1, 11)]
UNPRICED = 7
FAILED = 3
# More than one page of the list of single requests.
OF_FIRST_TEAM = 60
HOSTILE = "<img src=x onerror=alert(1)>"


def usage() -> list[dict[str, Any]]:
    """Ten teams whose use falls from one to the next, a model without a price, failures of one team, a period before."""
    events = [at(1, team=TEAMS[0]) for _ in range(OF_FIRST_TEAM)]
    for place, team in enumerate(TEAMS[1:], 1):
        events += [at(1 + place, team=team, user_id=f"user-{team}") for _ in range(20 - place)]
    events += [at(2, team=TEAMS[0], provider="house", model="house-model-1") for _ in range(UNPRICED)]
    events += [at(3, team=TEAMS[1], status_code=429, error_type="rate_limit", output_tokens=0) for _ in range(FAILED)]
    events += [at(40, team=team) for team in TEAMS for _ in range(3)]
    return events


def at(days: int, **changes: Any) -> dict[str, Any]:
    """An event at noon of a day; today's is at midnight, which is over."""
    return event(event_time=f"{days_ago(days)}T{'12' if days else '00'}:00:00+00:00", **changes)


def store(shared: Shared, events: Iterable[dict[str, Any]]) -> None:
    items = as_items(*events)
    report = ingest(shared.postgres, EVENTS, items, source="test", settings=shared.settings)
    assert report.inserted == len(items), report
    roll_up(shared.postgres, shared.settings)


def cost_of(events: Iterable[dict[str, Any]]) -> Decimal:
    return sum((list_cost(one) or Decimal(0) for one in events), Decimal(0))


def of_range(events: Iterable[dict[str, Any]], **members: str) -> list[dict[str, Any]]:
    """Those of the last 30 days, with these members."""
    first = str(days_ago(29))
    return [
        one
        for one in events
        if one["event_time"] >= first and all(one[name] == value for name, value in members.items())
    ]


def sign_in(browser: Browser, token: str, query: str = "") -> None:
    browser.open(f"/{query}")
    browser.type_after("Token", token)
    browser.click("Open")


def settled(browser: Browser) -> None:
    """Until every part of the page has its answer."""
    browser.wait_until("return document.querySelector('.card') && !document.querySelector('[aria-busy=true]')")


def tiles(browser: Browser) -> dict[str, str]:
    """The figure of each tile by its title."""
    found = browser.run(
        "return [...document.querySelectorAll('.tile')].map(tile => [...tile.children].map(one => one.innerText))"
    )
    assert isinstance(found, list)
    return {title: figure for title, figure, _ in found}


def rows(browser: Browser, selector: str) -> list[list[str]]:
    """The cells of a table's body, in their order."""
    script = f"""return [...document.querySelectorAll("{selector} tbody tr")].map(
        line => [...line.children].map(cell => cell.innerText.trim()))"""
    found = browser.run(script)
    assert isinstance(found, list)
    return found


def complaints(browser: Browser) -> list[str]:
    """What the console has said since this was asked last, and should not. It tells each answer that is no success."""
    return browser.complaints()


def only_file(folder: Path, ending: str) -> bytes | None:
    """The content of the one file that was saved; None: not yet."""
    found = list(folder.glob(f"*.{ending}"))
    return found[0].read_bytes() if found else None

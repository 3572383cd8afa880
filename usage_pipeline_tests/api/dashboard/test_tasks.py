"""What an analyst or an operator asks is answered by clicks alone, in few steps, and rightly by what was sent.

With PICTURES set to a folder, each task leaves a picture there: those of docs/workspace.md.
"""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from usage_pipeline.budgets.budget import budget_of
from usage_pipeline.budgets.store import set_budget
from usage_pipeline_tests.api.dashboard import quarter
from usage_pipeline_tests.api.dashboard.quarter import month_before, month_start, quarter_start, week_start
from usage_pipeline_tests.api.dashboard.tasks import MOST_STEPS, PROVIDER, SERVICE, TASKS, TEAM, Person
from usage_pipeline_tests.api.dashboard.usage_rig import (
    complaints,
    cost_of,
    only_file,
    rows,
    settled,
    sign_in,
    store,
    tiles,
)
from usage_pipeline_tests.end_to_end.rigs.browser import Browser, open_browser
from usage_pipeline_tests.rigs.clock import today
from usage_pipeline_tests.rigs.events import is_error, total_tokens
from usage_pipeline_tests.rigs.places import PROJECT
from usage_pipeline_tests.rigs.service import Shared, new_token
from usage_pipeline_tests.rigs.waiting import wait_until

Events = list[dict[str, Any]]
TABLE = ".groups"
REQUESTS = "section[aria-labelledby=requests-title]"
LIMIT = Decimal("1.5")


@pytest.fixture(scope="module")
def sent(shared: Shared) -> Events:
    events = quarter.events_until(today())
    store(shared, events)
    limit = LIMIT * cost_of(within(events, month_start(today()), today(), team=TEAM))
    set_budget(shared.postgres, budget_of("search in a month", f"team={TEAM}", "month", str(limit), "usd", None))
    return events


@pytest.fixture
def person(shared: Shared, sent: Events, tmp_path: Path) -> Iterator[Person]:
    """Who has just signed in."""
    with open_browser(f"http://127.0.0.1:{shared.service.port}") as browser:
        browser.save_downloads_in(tmp_path)
        sign_in(browser, new_token(shared.postgres, "read", "users"))
        browser.wait_for("As of", "Single requests", "Budgets")
        settled(browser)
        yield Person(browser)
        assert complaints(browser) == []


def within(events: Iterable[dict[str, Any]], first: date, last: date, **members: str) -> Events:
    """Those of these days, both included, with these members."""
    return [
        one
        for one in events
        if str(first) <= one["event_time"][:10] <= str(last)
        and all(one[name] == value for name, value in members.items())
    ]


def by(events: Events, *names: str) -> dict[tuple[Any, ...], Events]:
    found: defaultdict[tuple[Any, ...], Events] = defaultdict(list)
    for one in events:
        found[tuple(one.get(name) for name in names)].append(one)
    return found


def costs(events: Events, *names: str) -> list[tuple[tuple[Any, ...], Decimal]]:
    """The cost of each group, the dearest first."""
    found = [(group, cost_of(some)) for group, some in by(events, *names).items()]
    return sorted(found, key=lambda one: -one[1])


def money(shown: str) -> Decimal:
    """A dash stands for a cost of nothing."""
    return (
        Decimal(0)
        if shown == "–"
        else Decimal(shown.replace("$", "").replace(",", "").replace("−", "-").replace("+", ""))
    )


def is_about(shown: str, expected: Decimal) -> bool:
    """As exact as the page writes it."""
    _, _, decimals = shown.partition(".")
    return abs(money(shown) - expected) <= Decimal(1).scaleb(-len(decimals)) * Decimal("0.51")


def is_change(shown: str, now: Decimal, before: Decimal) -> bool:
    """In percent, with a decimal below ten."""
    share = 100 * (now - before) / before
    found = Decimal(re.sub("[^0-9.]", "", shown)) * (-1 if "−" in shown else 1)
    return abs(found - share) <= (Decimal("0.06") if abs(share) < 10 else Decimal("0.6"))


def last_month() -> tuple[date, date]:
    return month_before(today()), month_start(today()) - timedelta(days=1)


def of_team(browser: Browser, sent: Events, _: Path) -> None:
    now = within(sent, *last_month(), team=TEAM)
    before = within(sent, month_before(last_month()[0]), last_month()[0] - timedelta(days=1), team=TEAM)
    assert is_about(tiles(browser)["Cost"], cost_of(now))
    shown = rows(browser, TABLE)
    [((model,), cost), *others] = costs(now, "model")
    assert others == []
    assert shown[0][0] == model
    assert is_about(shown[0][1], cost)
    [((model_before,), _)] = costs(before, "model")
    # The model of before has no cost now, rather than one of $0.00.
    assert [line[1] for line in shown if line[0] == model_before] == ["–"]
    lead = str(browser.run("return document.querySelector('.lead').innerText"))
    assert lead.startswith("Cost rose by")
    amounts = [word.rstrip(".,") for word in lead.split() if word.startswith("$")]
    assert is_about(amounts[-2], cost_of(before))
    assert is_about(amounts[-1], cost_of(now))
    # As many requests with as many tokens, by the same prices: all of it is the other model.
    script = """return [...document.querySelectorAll('.bars > div')].map(
        one => [one.querySelector('dt').firstChild.data.trim(), one.querySelector('.number').innerText])"""
    parts: Any = browser.run(script)
    for name, amount in parts:
        assert is_about(amount, cost_of(now) - cost_of(before) if name == "Models" else Decimal(0)), name


def of_users(browser: Browser, sent: Events, _: Path) -> None:
    expected = costs(within(sent, week_start(today()), today(), service=SERVICE), "user_id")[:10]
    shown = rows(browser, TABLE)[:10]
    assert [line[0] for line in shown] == [user for (user,), _ in expected]
    assert all(is_about(line[1], cost) for line, (_, cost) in zip(shown, expected, strict=True))


def of_errors(browser: Browser, sent: Events, _: Path) -> None:
    failed = sorted(
        (one for one in sent if one["provider"] == PROVIDER and is_error(one)), key=lambda one: one["event_time"]
    )
    browser.wait_until(f"return document.querySelector('{REQUESTS} tbody tr')")
    first = rows(browser, REQUESTS)[-1]
    began = datetime.fromisoformat(failed[0]["event_time"])
    assert f"{began:%H:%M:%S}" in first[0]
    assert f"{began.day} {began:%b}" in first[0]
    assert f"{failed[0]['status_code']} {failed[0]['error_type']}" in first[-2]


def of_latency(browser: Browser, sent: Events, _: Path) -> None:
    latencies = {
        group: numpy.percentile([one["latency_ms"] for one in some], 95)
        for group, some in by(within(sent, today() - timedelta(days=29), today()), "service", "model").items()
    }
    worst = max(latencies, key=lambda group: latencies[group])
    first = rows(browser, TABLE)[0]
    assert (first[0], first[1]) == worst
    assert f"{latencies[worst]:,.0f}" in " ".join(first)


def of_key(browser: Browser, sent: Events, _: Path) -> None:
    events = within(sent, today() - timedelta(days=29), today())
    ((key,), _), *_ = costs(events, "api_key_id")
    assert f"filter.api_key={key}" in browser.address()
    assert tiles(browser)["Requests"] == f"{len(by(events, 'api_key_id')[key,]):,}"
    expected = sorted((one["event_time"] for one in by(events, "api_key_id")[key,]), reverse=True)[:50]
    browser.wait_until(f"return document.querySelectorAll('{REQUESTS} tbody tr').length == {len(expected)}")
    for line, moment in zip(rows(browser, REQUESTS), expected, strict=True):
        assert f"{datetime.fromisoformat(moment):%H:%M:%S}" in line[0]


def of_weeks(browser: Browser, sent: Events, _: Path) -> None:
    first = quarter_start(today())
    events = within(sent, first, today(), team=TEAM)
    weeks = by([{**one, "week": week_start(date.fromisoformat(one["event_time"][:10]))} for one in events], "week")
    shown = rows(browser, ".figure.large")
    titles: Any = browser.run(
        "return [...document.querySelectorAll('.figure.large th[scope=col]')].map(one => one.innerText)"
    )
    # Those without any are told as well: every week of the quarter has a line.
    mondays = [day for day in (week_start(first) + timedelta(weeks=number) for number in range(14)) if day <= today()]
    assert len(shown) == len(mondays)
    for line, monday in zip(shown, mondays, strict=True):
        begins = max(monday, first)
        assert f"{begins.day} {begins:%b}" in line[0] or f"{monday.day} {monday:%b}" in line[0]
        assert is_about(line[titles.index("Total")], cost_of(weeks.get((monday,), [])))


def of_cache(browser: Browser, sent: Events, _: Path) -> None:
    def share(some: Events) -> float:
        return sum(one.get("usage", {}).get("cache_read_tokens", 0) for one in some) / sum(
            one["input_tokens"] for one in some
        )

    groups = by(within(sent, today() - timedelta(days=29), today()), "team", "model")
    shown = {(line[0], line[1]): line[2] for line in rows(browser, TABLE) if line[2] != "–"}
    assert shown == {group: f"{share(some):.1%}" for group, some in groups.items()}
    listed = [float(one.rstrip("%")) for one in shown.values()]
    assert listed == sorted(listed, reverse=True)


def of_failed(browser: Browser, sent: Events, _: Path) -> None:
    yesterday = today() - timedelta(days=1)
    failed = [one for one in within(sent, yesterday, yesterday) if is_error(one)]
    newest = max(failed, key=lambda one: one["event_time"])
    assert len(rows(browser, REQUESTS)) == len(failed)
    browser.wait_for(newest["event_id"], newest["error_type"], newest["model"])


def of_budget(browser: Browser, sent: Events, _: Path) -> None:
    first, now = month_start(today()), datetime.now(UTC)
    used = cost_of(within(sent, first, today(), team=TEAM))
    browser.wait_for("search in a month")
    told = str(browser.run("return document.querySelector('.budgets li > p').innerText"))
    assert is_about(told.split()[0], used)
    began = datetime.combine(first, datetime.min.time(), UTC)
    end = datetime.combine(month_start(first + timedelta(days=32)), datetime.min.time(), UTC)
    share = Decimal((now - began) / (end - began))
    # Near the moments at which the answer changes, the page is right with either.
    if abs(share * LIMIT - 1) > Decimal("0.02") and now - began > timedelta(hours=2):
        assert ("will be over the limit" if used / share > LIMIT * used else "within the limit") in told


def of_export(browser: Browser, sent: Events, folder: Path) -> None:
    content = wait_until(lambda: only_file(folder, "csv"), "a CSV file")
    lines = list(csv.DictReader(io.StringIO(content.decode())))
    expected = costs(within(sent, *last_month()), "team")
    assert [(line["team"], Decimal(line["costUsd"])) for line in lines] == [(team, cost) for (team,), cost in expected]
    tokens = by(within(sent, *last_month()), "team")
    assert [int(line["totalTokens"]) for line in lines] == [
        sum(total_tokens(one) for one in tokens[team,]) for (team,), _ in expected
    ]


def of_month(browser: Browser, sent: Events, _: Path) -> None:
    first, last = month_start(today()), today()
    is_whole = (last + timedelta(days=1)).day == 1
    end_before = first - timedelta(days=1)
    before_last = end_before if is_whole else end_before.replace(day=min(last.day, end_before.day))
    now, before = (
        cost_of(events) for events in (within(sent, first, last), within(sent, month_before(today()), before_last))
    )
    assert is_about(tiles(browser)["Cost"], now)
    assert is_change(str(browser.run("return document.querySelector('.tile .change').innerText")), now, before)
    lead = str(browser.run("return document.querySelector('.lead').innerText"))
    amounts = [word.rstrip(".,") for word in lead.split() if word.startswith("$")]
    assert is_about(amounts[-2], before)


ANSWERS: dict[str, Callable[[Browser, Events, Path], None]] = {
    "team": of_team,
    "users": of_users,
    "errors": of_errors,
    "latency": of_latency,
    "key": of_key,
    "weeks": of_weeks,
    "cache": of_cache,
    "failed": of_failed,
    "budget": of_budget,
    "export": of_export,
    "month": of_month,
}


@pytest.mark.parametrize("name", TASKS)
def test_a_question_is_answered_by_a_few_clicks(person: Person, sent: Events, tmp_path: Path, name: str) -> None:
    TASKS[name].do(person)
    assert 0 < person.steps <= MOST_STEPS
    ANSWERS[name](person.browser, sent, tmp_path)
    if folder := os.environ.get("PICTURES"):
        take_picture(person.browser, name, Path(folder))


def take_picture(browser: Browser, name: str, folder: Path) -> None:
    """With few colours: a tenth of the size."""
    heading = TASKS[name].pictured
    selector = None
    # What is below the window is not in the picture.
    browser.set_width(1360, 1_000 if heading is None else 3_000, is_telephone=False)
    settled(browser)
    if heading is not None:
        browser.run(
            f"""const parts = [...document.querySelectorAll("section")];
            parts.find(one => one.querySelector("h2")?.innerText.startsWith("{heading}")).id = "pictured";"""
        )
        selector = "#pictured"
    else:
        browser.run("scrollTo(0, 0)")
    image = Image.open(io.BytesIO(browser.picture(selector))).convert("RGB")
    image.quantize(64).save(folder / f"task-{name}.png", optimize=True)


def test_the_page_of_questions_has_each_with_its_picture() -> None:
    page = (PROJECT / "docs" / "workspace.md").read_text(encoding="utf-8")
    parts = {part.splitlines()[0]: part for part in page.split("\n## ")}
    for name, task in TASKS.items():
        assert f"(task-{name}.png)" in parts[task.question]

"""What an analyst does with the page: filter, go back, sort, compare, look at single requests, download, send a link."""

import csv
import io
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow.parquet

from usage_pipeline_tests.api.dashboard.usage_rig import (
    FAILED,
    OF_FIRST_TEAM,
    TEAMS,
    UNPRICED,
    complaints,
    cost_of,
    of_range,
    only_file,
    rows,
    settled,
    tiles,
)
from usage_pipeline_tests.end_to_end.rigs.browser import Browser
from usage_pipeline_tests.rigs.waiting import wait_until

Events = list[dict[str, Any]]
TABLE = ".groups"
CHART = ".figure.large"


def query(browser: Browser) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(browser.address()).query))


def money(amount: str) -> float:
    """A dash stands for a cost that is not known."""
    return 0.0 if amount == "–" else float(amount.removeprefix("$").replace(",", ""))


def test_tiles_show_the_last_thirty_days_and_what_is_not_in_the_cost(browser: Browser, sent: Events) -> None:
    shown, events = tiles(browser), of_range(sent)
    assert abs(money(shown["Cost"]) - float(cost_of(events))) < 0.0001
    assert shown["Requests"] == f"{len(events)}"
    assert shown["Users"] == f"{len({one['user_id'] for one in events})}"
    browser.wait_for(f"not in it: {UNPRICED} requests without a price", f"{FAILED} errors")


def test_a_click_on_a_value_filters_and_the_address_keeps_it_through_reload_back_and_forward(
    browser: Browser, sent: Events
) -> None:
    requests = f"{len(of_range(sent, team=TEAMS[1]))}"
    before = tiles(browser)["Requests"]
    browser.click(TEAMS[1])
    showing = "return document.querySelectorAll('.tile dd')[2].innerText == '{}'"
    browser.wait_until(showing.format(requests))
    assert query(browser)["filter.team"] == TEAMS[1]
    assert query(browser)["group_by"] == "model", "one team alone would be one bar"
    browser.reload()
    browser.wait_until(showing.format(requests))
    browser.go_back()
    browser.wait_until(showing.format(before))
    assert "filter.team" not in query(browser)
    browser.go_forward()
    browser.wait_until(showing.format(requests))
    browser.click_at(".chip")
    browser.wait_until(showing.format(before))
    assert complaints(browser) == []


def test_a_value_is_found_by_the_search_box(browser: Browser, sent: Events) -> None:
    browser.click("+ Add filter")
    browser.wait_until(
        f"return [...document.querySelectorAll('datalist option')].some(one => one.value == '{TEAMS[3]}')"
    )
    browser.press(*TEAMS[3], "\n")
    browser.wait_until(
        f"return document.querySelectorAll('.tile dd')[2].innerText == '{len(of_range(sent, team=TEAMS[3]))}'"
    )
    assert query(browser)["filter.team"] == TEAMS[3]


def test_the_chart_stacks_eight_groups_and_the_others_and_adds_up_to_the_total(browser: Browser, sent: Events) -> None:
    browser.choose("Compare with", "Nothing")
    browser.wait_for("2 others")
    settled(browser)
    legend = browser.run(f"return [...document.querySelectorAll('{CHART} .legend li')].map(one => one.innerText)")
    assert isinstance(legend, list)
    assert len(legend) == 9
    assert legend[0] == TEAMS[0]
    browser.click_at(f"{CHART} [aria-pressed]")
    lines = rows(browser, f"{CHART}")
    assert len(lines) == 30
    for line in lines:
        assert abs(sum(money(cell) for cell in line[1:-1]) - money(line[-1])) < 0.0001
    shown = sum(money(line[-1]) for line in lines)
    assert abs(shown - float(cost_of(of_range(sent)))) < 0.01


def test_a_column_sorts_the_whole_answer_and_the_table_has_totals(browser: Browser, sent: Events) -> None:
    assert [line[0] for line in rows(browser, TABLE)][:2] == TEAMS[:2]
    browser.click_at(f"{TABLE} thead .sort")
    browser.wait_until("return document.querySelector('.groups th[aria-sort=ascending]')")
    settled(browser)
    assert [line[0] for line in rows(browser, TABLE)] == TEAMS
    assert query(browser)["order"] == "team"
    browser.click_at(f"{TABLE} thead .sort")
    browser.wait_until("return document.querySelector('.groups th[aria-sort=descending]')")
    settled(browser)
    assert [line[0] for line in rows(browser, TABLE)] == TEAMS[::-1]
    total = browser.run("return document.querySelector('.groups tfoot').innerText")
    assert f"{len(of_range(sent))}" in str(total)


def test_a_comparison_adds_columns_and_changes_and_none_takes_them_away(browser: Browser, sent: Events) -> None:
    [first] = [line for line in rows(browser, TABLE) if line[0] == TEAMS[0]]
    before = float(cost_of(one for one in sent if one not in of_range(sent) and one["team"] == TEAMS[0]))
    assert abs(money(first[2]) - before) < 0.0001
    assert first[3].endswith("%")
    browser.choose("Compare with", "Nothing")
    browser.wait_until("return !document.querySelector('.change')")
    assert query(browser)["compare"] == "none"
    assert "Before" not in str(browser.run("return document.querySelector('.groups thead').innerText"))


def test_why_it_changed_is_told_by_parts_that_add_up(browser: Browser) -> None:
    browser.wait_for("Why did it change?", "Cost rose by", "Volume", "Tokens per request")
    parts = browser.run("return [...document.querySelectorAll('.bars .number')].map(one => one.innerText)")
    assert isinstance(parts, list)
    shown = sum(float(part.replace("−", "-").replace("+", "").replace("$", "")) for part in parts)
    lead = str(browser.run("return document.querySelector('.lead').innerText"))
    before, now = [money(word) for word in lead.rstrip(".").split() if word.startswith("$")][-2:]
    assert abs(shown - (now - before)) < 0.05
    browser.wait_for(f"Without requests whose cost is not known: 0 before, {UNPRICED} now")
    assert "Known cost" not in str(browser.run("return document.querySelector('.bars').innerText"))


def test_why_it_changed_is_not_told_as_zero_where_no_cost_is_known(browser: Browser) -> None:
    browser.open("/?filter.provider=house")
    browser.wait_for("Nothing to compare: no cost is known in the two periods.")


def test_a_row_opens_its_single_requests_page_by_page_and_one_shows_all_that_is_known(
    browser: Browser, sent: Events
) -> None:
    browser.click_at(f"{TABLE} tbody tr:first-child .quiet")
    listed = "section[aria-labelledby=requests-title]"
    browser.wait_until(f"return document.querySelectorAll('{listed} tbody tr').length == 50")
    assert query(browser)["requests"] == "all"
    assert query(browser)["filter.team"] == TEAMS[0]
    browser.click_at(f"{listed} .more")
    of_team = len(of_range(sent, team=TEAMS[0]))
    assert of_team == OF_FIRST_TEAM + UNPRICED
    browser.wait_until(f"return document.querySelectorAll('{listed} tbody tr').length == {of_team}")
    browser.click_at(f"{listed} tbody tr:last-child .quiet")
    browser.wait_for("eventId", "inputTokens", "serviceTier", "house-model-1")
    browser.click_at("dialog .quiet")
    browser.wait_until("return !document.querySelector('dialog')")
    assert complaints(browser) == []


def test_errors_are_listed_by_their_type(browser: Browser) -> None:
    browser.click("rate_limit")
    listed = "section[aria-labelledby=requests-title]"
    browser.wait_until(f"return document.querySelectorAll('{listed} tbody tr').length == {FAILED}")
    browser.wait_for("✕ 429 rate_limit", "Error type: rate_limit")
    assert query(browser)["error_type"] == "rate_limit"


def test_the_shown_query_is_saved_as_csv_and_as_parquet(browser: Browser, tmp_path: Path) -> None:
    browser.save_downloads_in(tmp_path)
    table = "section[aria-labelledby=table-title]"
    browser.click_at(f"{table} .downloads a:first-child")
    content = wait_until(lambda: only_file(tmp_path, "csv"), "a CSV file")
    assert [line["team"] for line in csv.DictReader(io.StringIO(content.decode()))] == TEAMS
    browser.click_at(f"{table} .downloads a:last-child")
    packed = wait_until(lambda: only_file(tmp_path, "parquet"), "a Parquet file")
    read = pyarrow.parquet.read_table(io.BytesIO(packed))
    assert read.column("team").to_pylist() == TEAMS


def test_another_grouping_metric_and_range_are_in_the_address_and_a_link_shows_the_same(browser: Browser) -> None:
    browser.choose("Group by", "Model")
    browser.choose("Metric", "Requests")
    browser.choose("Days", "Last 7 days")
    browser.wait_for("Requests by day, by model", "house-model-1")
    settled(browser)
    shown = (tiles(browser), rows(browser, TABLE))
    browser.visit(browser.address())
    browser.wait_for("Requests by day, by model", "house-model-1")
    settled(browser)
    assert (tiles(browser), rows(browser, TABLE)) == shown

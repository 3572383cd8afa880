"""The files of a report say what the events say; the folder has whole files; each channel is told once.

With PICTURES set to a folder, a page is left there: that of docs/reports.md.
"""

import base64
import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet
import pytest
from PIL import Image
from pydantic import SecretStr

from usage_pipeline.explore.changes import Change
from usage_pipeline.reports.contents import NotRolledUp, Share, read_contents
from usage_pipeline.reports.files import ReportsUnavailable, files_of
from usage_pipeline.reports.making import Dispatch, make_report
from usage_pipeline.reports.report import Report
from usage_pipeline.reports.sending import NotSent
from usage_pipeline.reports.words import amount, difference, message, parts_of
from usage_pipeline.rollups.calendar import day_window, month_window, week_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.reports.conftest import NOW, ZONE, Rolled
from usage_pipeline_tests.rigs.alerts import Webhook
from usage_pipeline_tests.rigs.events import is_error, list_cost, total_tokens
from usage_pipeline_tests.rigs.windows import event_at
from usage_pipeline_tests.rollups.trace_rig import roll, store

ZONE_INFO = ZoneInfo(ZONE)
OCTOBER = Report(month_window(date(2025, 10, 1), ZONE_INFO))
WEEK = Report(week_window(date(2025, 10, 20), ZONE_INFO))
NOT_SENT = Dispatch(is_sent=False)
SENT_ONCE = Dispatch(is_sent=True)
FILES = ["usage-month-2025-10.csv", "usage-month-2025-10.parquet", "usage-month-2025-10.png"]
Events = list[dict[str, Any]]


def between(events: Iterable[dict[str, Any]], first: date, last: date) -> Events:
    return [one for one in events if first <= day_of(one) <= last]


def day_of(event: Mapping[str, Any]) -> date:
    return datetime.fromisoformat(event["event_time"]).astimezone(ZONE_INFO).date()


def cost_of(events: Iterable[Mapping[str, Any]]) -> Decimal | None:
    costs = [cost for one in events if (cost := list_cost(one)) is not None]
    return sum(costs, Decimal(0)) if costs else None


def by(events: Events, *names: str) -> Mapping[tuple[str, ...], Events]:
    groups: dict[tuple[str, ...], Events] = defaultdict(list)
    for one in events:
        groups[tuple(one[name] for name in names)].append(one)
    return groups


@pytest.mark.parametrize(
    ("report", "days_before"),
    [
        (OCTOBER, (date(2025, 9, 1), date(2025, 9, 30))),
        (WEEK, (date(2025, 10, 13), date(2025, 10, 19))),
    ],
    ids=["month", "week"],
)
def test_the_table_says_what_the_events_say_of_the_period_and_the_one_before(
    rolled: Rolled, report: Report, days_before: tuple[date, date]
) -> None:
    files = files_of(read_contents(rolled.postgres, report, ZONE_INFO))
    names = ("team", "service", "provider", "model")
    now = by(between(rolled.events, report.days.first, report.days.last), *names)
    before = by(between(rolled.events, *days_before), *names)
    assert now
    assert before
    rows = list(csv.DictReader(io.StringIO(files[f"{report.name}.csv"].decode())))
    assert {tuple(row[name] for name in names) for row in rows} == set(now) | set(before)
    read = pyarrow.parquet.read_table(io.BytesIO(files[f"{report.name}.parquet"])).to_pylist()
    for row, typed in zip(rows, read, strict=True):
        for prefix, sides in (("", now), ("previous", before)):
            events = sides.get(tuple(row[name] for name in names), [])

            def member(name: str, prefix: str = prefix) -> str:
                return f"{prefix}{name[0].upper()}{name[1:]}" if prefix else name

            if prefix and not events:
                assert row[member("requests")] in ("", "0")
                continue
            assert int(row[member("requests")]) == typed[member("requests")] == len(events)
            assert int(row[member("errors")]) == sum(map(is_error, events))
            assert int(row[member("totalTokens")]) == sum(total_tokens(one) or 0 for one in events)
            cost = cost_of(events)
            shown = row[member("costUsd")]
            assert Decimal(shown or 0) == typed[member("costUsd")] or (cost or 0) == 0
            assert Decimal(shown or 0) == (cost or 0)


def test_the_sums_of_the_page_are_those_of_the_events(rolled: Rolled) -> None:
    contents = read_contents(rolled.postgres, OCTOBER, ZONE_INFO)
    events = between(rolled.events, OCTOBER.days.first, OCTOBER.days.last)
    before = between(rolled.events, OCTOBER.days_before.first, OCTOBER.days_before.last)
    assert contents.totals["requests"] == len(events)
    assert contents.totals_before["requests"] == len(before)
    assert contents.totals["distinct_users"] == len({one["user_id"] for one in events})
    assert contents.totals["cost_usd"] == cost_of(events)
    assert contents.totals["unpriced_requests"] == sum(list_cost(one) is None for one in events)
    for shares, name in ((contents.teams, "team"), (contents.models, "model")):
        groups, groups_before = by(events, name), by(before, name)
        expected = {
            Share(key[0], *(cost_of(side[key]) if key in side else Decimal(0) for side in (groups, groups_before)))
            for key in {*groups, *groups_before}
        }
        assert set(shares) == expected
        assert [one.cost_usd or 0 for one in shares] == sorted((one.cost_usd or 0 for one in shares), reverse=True)
    assert contents.days == [date(2025, 10, 1) + timedelta(days=number) for number in range(31)]
    for team, costs in contents.costs_by_day.items():
        of_days = [
            cost_of(one for one in events if one["team"] == team and day_of(one) == day) or 0 for day in contents.days
        ]
        assert list(costs) == of_days
    change = contents.change
    assert change is not None
    assert change.change_usd == (cost_of(events) or 0) - (cost_of(before) or 0)
    parts = parts_of(change)
    assert len(parts) == 6
    assert sum(value for _, value in parts) == change.change_usd
    assert change.unpriced_requests == contents.totals["unpriced_requests"]
    assert change.previous_unpriced_requests == contents.totals_before["unpriced_requests"]


def test_a_report_of_requests_without_any_known_cost_says_so(rolled: Rolled) -> None:
    unknown = Change(None, *[None] * 9, 40, 30)
    contents = replace(read_contents(rolled.postgres, OCTOBER, ZONE_INFO), change=unknown)
    assert parts_of(unknown) == []
    assert "Why the cost changed" not in message(contents)
    assert files_of(contents)["usage-month-2025-10.png"]


def test_a_cost_that_is_not_known_is_none_that_is_zero_and_nothing_used_is_none_that_is_unknown(
    rolled: Rolled,
) -> None:
    def used(month: int, team: str, model: str) -> dict[str, Any]:
        return event_at(datetime(2025, month, 12, 9, tzinfo=UTC), team=team, model=model, provider="openai")

    events = [
        *(used(2, "known before", "gpt-4o"), used(3, "known before", "no-list-has-it")),
        *(used(2, "known now", "no-list-has-it"), used(3, "known now", "gpt-4o")),
        *(used(3, "new", "gpt-4o"), used(2, "gone", "gpt-4o")),
        *(used(2, "never known", "no-list-has-it"), used(3, "never known", "no-list-has-it")),
    ]
    settings = rolled.settings.model_copy(update={"usage_start_date": date(2025, 1, 1)})
    store(rolled.postgres, events, settings, NOW)
    roll(rolled.postgres, [day_window(date(2025, month, 12), ZONE_INFO) for month in (2, 3)], settings, NOW)
    rolled.postgres.execute("delete from ops.touched_windows")
    contents = read_contents(rolled.postgres, Report(month_window(date(2025, 3, 1), ZONE_INFO)), ZONE_INFO)
    shown = {
        one.name: (amount(one.cost_usd), amount(one.previous_cost_usd), difference(one.cost_usd, one.previous_cost_usd))
        for one in contents.teams
    }
    cost = cost_of(events[:1])
    assert cost
    one = amount(cost)
    assert shown == {
        "known before": ("–", one, "–"),
        "known now": (one, "–", "–"),
        "new": (one, "$0.00", "new"),
        "gone": ("$0.00", one, "−100 %"),
        "never known": ("–", "–", "–"),
    }
    assert difference(3, None) == "–"


@pytest.mark.parametrize("period", [OCTOBER, WEEK, Report(month_window(date(2025, 8, 1), ZONE_INFO))])
def test_the_page_is_one_of_a4_also_when_nothing_was_used(rolled: Rolled, period: Report) -> None:
    picture = files_of(read_contents(rolled.postgres, period, ZONE_INFO))[f"{period.name}.png"]
    with Image.open(io.BytesIO(picture)) as image:
        assert abs(image.height / image.width - 297 / 210) < 0.01
        assert len(image.convert("RGB").getcolors(1_000_000) or []) > 2
    if period is OCTOBER and (folder := os.environ.get("PICTURES")):
        Path(folder, "report.png").write_bytes(picture)


def test_names_of_others_choosing_are_drawn_and_written_as_they_are(rolled: Rolled) -> None:
    contents = read_contents(rolled.postgres, OCTOBER, ZONE_INFO)
    odd = ["_hidden", "$x^$", "=1+1", "<@here>\n", "名" * 300]
    named = replace(
        contents,
        teams=[Share(name, Decimal(1), None) for name in odd],
        costs_by_day={name: [Decimal(1)] * 31 for name in odd},
        rows=[[name, *row[1:]] for name, row in zip(odd, contents.rows, strict=False)],
    )
    files = files_of(named)
    [_, *rows] = csv.reader(io.StringIO(files["usage-month-2025-10.csv"].decode()))
    assert [row[0] for row in rows] == ["_hidden", "$x^$", "'=1+1", "<@here>\n", "名" * 300]


def test_a_period_with_usage_that_waits_to_be_rolled_up_is_refused_until_it_is(rolled: Rolled) -> None:
    rolled.postgres.execute(
        "insert into ops.touched_windows (grain, window_start, touched_at) values ('day', %s, %s)",
        (datetime(2025, 10, 30, 23, tzinfo=UTC), OCTOBER.window.end - timedelta(hours=2)),
    )
    try:
        with pytest.raises(NotRolledUp, match="expected all usage from 2025-10-01 to 2025-10-31 to be rolled up"):
            read_contents(rolled.postgres, OCTOBER, ZONE_INFO)
        rolled.postgres.execute("update ops.touched_windows set touched_at = %s", (OCTOBER.window.end,))
        assert read_contents(rolled.postgres, OCTOBER, ZONE_INFO).as_of == OCTOBER.window.end
    finally:
        rolled.postgres.execute("delete from ops.touched_windows")


def told(rolled: Rolled, *urls: str, **changes: Any) -> Settings:
    channels = {"alert_urls": SecretStr(",".join(urls)), "alert_timeout_seconds": 5.0, "send_reports": True}
    return rolled.settings.model_copy(update={**channels, **changes})


@pytest.fixture
def nobody_told(rolled: Rolled) -> None:
    rolled.postgres.execute("delete from ops.report_deliveries")


def test_the_folder_has_whole_files_which_the_next_run_replaces(rolled: Rolled, tmp_path: Path) -> None:
    folder = tmp_path / "a folder" / "reports"
    settings = rolled.settings.model_copy(update={"reports_url": str(folder)})
    for _ in range(2):
        made = make_report(rolled.postgres, settings, OCTOBER, NOT_SENT)
        assert made.is_kept
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == made.files
    assert sorted(made.files) == FILES


def test_a_folder_that_cannot_be_written_is_told_without_its_address_and_nobody_gets_the_report(
    rolled: Rolled, hook: Webhook, tmp_path: Path, nobody_told: None
) -> None:
    (tmp_path / "hunter2").write_text("a file")
    settings = told(rolled, f"json://127.0.0.1:{hook.port}/", reports_url=str(tmp_path / "hunter2"))
    with pytest.raises(ReportsUnavailable, match="REPORTS_URL: cannot write to it") as caught:
        make_report(rolled.postgres, settings, OCTOBER, SENT_ONCE)
    assert "hunter2" not in str(caught.value)
    assert hook.received == []


def test_a_channel_gets_the_page_and_the_table_once(rolled: Rolled, hook: Webhook, nobody_told: None) -> None:
    settings = told(rolled, f"json://127.0.0.1:{hook.port}/")
    made = make_report(rolled.postgres, settings, OCTOBER, SENT_ONCE)
    assert made.sent_to == ["1 (json)"]
    assert make_report(rolled.postgres, settings, OCTOBER, SENT_ONCE).sent_to == []
    [received] = hook.received
    assert received["title"] == "[usage_pipeline] LLM usage, October 2025"
    assert "2025-10-01 to 2025-10-31, Europe/Berlin" in received["message"]
    got = {one["filename"]: base64.b64decode(one["base64"]) for one in received["attachments"]}
    assert got == made.files
    assert next(iter(got)).endswith(".png")
    asked = "select grain, window_start, channel, cost_usd from ops.report_deliveries"
    cost = made.contents.totals["cost_usd"]
    assert rolled.postgres.execute(asked).fetchall() == [("month", date(2025, 10, 1), "1 (json)", cost)]


def test_one_that_fails_keeps_no_other_from_it_and_gets_it_by_the_next_try(
    rolled: Rolled, hook: Webhook, nobody_told: None
) -> None:
    good = f"json://127.0.0.1:{hook.port}/"
    with pytest.raises(NotSent, match=r"^1 \(json\): ") as caught:
        make_report(rolled.postgres, told(rolled, "json://user:hunter2@127.0.0.1:1/", good), OCTOBER, SENT_ONCE)
    assert "hunter2" not in str(caught.value)
    assert len(hook.received) == 1
    made = make_report(rolled.postgres, told(rolled, good, good), OCTOBER, SENT_ONCE)
    assert made.sent_to == ["1 (json)"]
    assert len(hook.received) == 2


def test_sent_again_it_goes_to_all_but_not_twice_by_a_retry(rolled: Rolled, hook: Webhook, nobody_told: None) -> None:
    settings = told(rolled, f"json://127.0.0.1:{hook.port}/")
    make_report(rolled.postgres, settings, OCTOBER, SENT_ONCE)
    again = Dispatch(is_sent=True, since=datetime.now(UTC))
    for sent in (["1 (json)"], []):
        assert make_report(rolled.postgres, settings, OCTOBER, again).sent_to == sent
    assert len(hook.received) == 2


def test_the_message_calls_nobody(rolled: Rolled) -> None:
    named = replace(
        read_contents(rolled.postgres, OCTOBER, ZONE_INFO), teams=[Share("@everyone <!channel>", Decimal(5), None)]
    )
    said = message(named)
    assert [line.partition(":")[0] for line in said.splitlines()[1:5]] == [
        "Cost",
        "Requests",
        "Errors",
        "Teams that cost most",
    ]
    assert "\\n" not in said
    assert "everyone" in said
    assert "@everyone" not in said
    assert "<!channel>" not in said

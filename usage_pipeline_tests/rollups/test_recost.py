"""Costs are reproducible: a day keeps its price version until somebody sets another, and the same one gives the same costs."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from usage_pipeline.events.pricing import lookups
from usage_pipeline.events.pricing.own_file import read_own_prices
from usage_pipeline.events.pricing.own_versions import import_prices
from usage_pipeline.events.pricing.prices import package_version
from usage_pipeline.rollups import calendar, windows
from usage_pipeline.rollups.late_windows import stale_windows
from usage_pipeline.rollups.recost import recost
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.commands import Run
from usage_pipeline_tests.rigs.windows import archive_chunk, event_at, store_events, window_rows

ZONE = Settings().timezone
DAY = (datetime.now(UTC) - timedelta(days=10)).date()
WINDOW = calendar.day_window(DAY, ZONE)
AT = WINDOW.first + timedelta(hours=10, minutes=30)
HOUR = calendar.hour_window(AT.replace(minute=0), ZONE)
NOW = datetime.now(UTC)
WEEK = calendar.week_window(calendar.week_of(DAY), ZONE)
MONTH = calendar.month_window(calendar.month_of(DAY), ZONE)
ALL = [HOUR, WINDOW, WEEK, MONTH]
# One line for a unit of one model, and a model of one's own.
PRICES = "provider,model,input_mtok,output_mtok\nopenai,gpt-4o,5,\nacme,own,1,1\n"
INSTALLED = package_version()


def costs(postgres: psycopg.Connection) -> list[Decimal | None]:
    return [
        sum((row[0] or Decimal(0) for row in window_rows(postgres, window, "cost_usd")), Decimal(0)) for window in ALL
    ]


@pytest.fixture
def later_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release in which everything costs ten times as much."""
    look_up = lookups.look_up

    def dearer(*names: Any) -> lookups.Lookup:
        found = look_up(*names)
        prices = tuple(
            replace(price, input_usd=price.input_usd * 10, output_usd=price.output_usd * 10) for price in found.prices
        )
        return replace(found, prices=prices)

    monkeypatch.setattr(lookups, "look_up", dearer)
    monkeypatch.setattr(lookups, "package_version", lambda: "genai-prices 99.0.0")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prices.csv"
    path.write_text(PRICES)
    return path


@pytest.fixture
def rolled(settings: Settings, postgres: psycopg.Connection) -> None:
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT, provider="acme", model="own"))
    for window in ALL:
        replace_window(postgres, window, settings=settings)


@pytest.mark.usefixtures("rolled")
def test_a_later_package_changes_no_day_that_is_rolled_up(
    settings: Settings, postgres: psycopg.Connection, request: pytest.FixtureRequest
) -> None:
    assert costs(postgres) == [Decimal("0.01")] * 4
    request.getfixturevalue("later_package")
    assert [replace_window(postgres, window, settings=settings).changed_rows for window in ALL] == [0] * 4
    # A late event of a known model has the day's price, a model that the old version was not asked for has none.
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT, model="gpt-4o-mini"))
    for window in ALL:
        replace_window(postgres, window, settings=settings)
    assert costs(postgres) == [Decimal("0.02")] * 4
    assert window_rows(postgres, WINDOW, "model, cost_usd, unpriced_requests")[-1] == ("gpt-4o-mini", None, 1)
    tomorrow = calendar.day_window(DAY + timedelta(days=1), ZONE)
    store_events(postgres, settings, NOW, event_at(AT + timedelta(days=1)))
    assert replace_window(postgres, tomorrow, settings=settings).price_version == "genai-prices 99.0.0"
    assert window_rows(postgres, tomorrow, "cost_usd") == [(Decimal("0.1"),)]
    assert replace_window(postgres, WINDOW, settings=settings).price_version == INSTALLED


def test_an_hour_and_its_day_have_the_same_version(
    settings: Settings, postgres: psycopg.Connection, request: pytest.FixtureRequest
) -> None:
    store_events(postgres, settings, NOW, event_at(AT))
    first = replace_window(postgres, HOUR, settings=settings)
    request.getfixturevalue("later_package")
    assert replace_window(postgres, WINDOW, settings=settings).price_version == first.price_version


def test_a_day_without_events_is_not_pinned(settings: Settings, postgres: psycopg.Connection) -> None:
    replace_window(postgres, WINDOW, settings=settings)
    assert postgres.execute("select count(*) from analytics.day_prices").fetchone() == (0,)


def test_models_are_looked_up_once_a_version_and_tier(
    settings: Settings, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    look_up = lookups.look_up
    monkeypatch.setattr(lookups, "look_up", lambda *names: (asked.append(names[:3]), look_up(*names))[1])
    store_events(postgres, settings, NOW, event_at(AT), event_at(AT, model="unheard-of"))
    postgres.execute("update analytics.usage_events set service_tier = 'batch' where model = 'unheard-of'")
    for window in (HOUR, WINDOW, HOUR):
        replace_window(postgres, window, settings=settings)
    assert sorted(asked) == [("openai", "gpt-4o", ""), ("openai", "unheard-of", "batch")]
    found = postgres.execute("select model, service_tier, priced_as from analytics.model_lookups order by 1").fetchall()
    assert found == [("gpt-4o", "", "openai/gpt-4o"), ("unheard-of", "batch", None)]


@pytest.mark.usefixtures("rolled")
def test_own_prices_apply_to_new_days_by_themselves_and_to_pinned_days_by_recost(
    run: Run, settings: Settings, postgres: psycopg.Connection, table: Path
) -> None:
    imported = run("prices", "import", str(table), "--json")
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["price_version"] == f"{INSTALLED} + own 1"
    # A pinned day keeps its prices, and a new model of it is looked up in its version.
    store_events(postgres, settings, NOW, event_at(AT, model="gpt-4o-mini"), event_at(AT + timedelta(days=1)))
    for window in ALL:
        replace_window(postgres, window, settings=settings)
    assert dict(window_rows(postgres, WINDOW, "model, cost_usd")) == {
        "own": None,
        "gpt-4o": Decimal("0.01"),
        "gpt-4o-mini": Decimal("0.0006"),
    }
    tomorrow = calendar.day_window(DAY + timedelta(days=1), ZONE)
    report = replace_window(postgres, tomorrow, settings=settings)
    assert report.price_version == f"{INSTALLED} + own 1"
    before = window_rows(postgres, tomorrow, "cost_usd")
    done = run("recost", "--from", str(DAY), "--to", str(DAY), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["version"] == f"{INSTALLED} + own 1"
    assert document["days"][0]["unpriced_requests"] == 0
    recosted = dict(window_rows(postgres, WINDOW, "model, cost_usd"))
    assert recosted == {"own": Decimal("0.0025"), "gpt-4o": Decimal("0.015"), "gpt-4o-mini": Decimal("0.0006")}
    # A newer import changes neither of the two.
    table.write_text("provider,model,factor\n*,*,10\n")
    assert run("prices", "import", str(table)).returncode == 0
    assert replace_window(postgres, tomorrow, settings=settings).changed_rows == 0
    assert replace_window(postgres, WINDOW, settings=settings).changed_rows == 0
    assert window_rows(postgres, tomorrow, "cost_usd") == before
    back = run("recost", "--from", str(DAY), "--to", str(DAY), "--version", f"{INSTALLED} + own 2")
    assert back.returncode == 0, back.stderr


@pytest.mark.usefixtures("rolled")
def test_recost_replaces_all_windows_of_a_day_and_can_go_back(
    run: Run, postgres: psycopg.Connection, table: Path
) -> None:
    import_prices(postgres, list(read_own_prices(table)))
    days = ("--from", str(DAY), "--to", str(DAY))
    done = run("recost", *days, "--json")
    assert done.returncode == 0, done.stderr
    [day] = json.loads(done.stdout)["days"]
    assert (day["cost_before"], day["cost_after"], day["unpriced_requests"]) == ("0.01", "0.0175", 0)
    assert costs(postgres) == [Decimal("0.0175")] * 4
    assert stale_windows(postgres, time_zone=ZONE, now=NOW) == []
    noted = postgres.execute("select table_name from ops.late_data order by 1").fetchall()
    assert ("analytics.usage_daily",) in noted
    back = run("recost", *days, "--version", INSTALLED)
    assert back.returncode == 0, back.stderr
    assert costs(postgres) == [Decimal("0.01")] * 4
    again = run("recost", *days, "--version", f"{INSTALLED} + own 1")
    assert again.returncode == 0, again.stderr
    assert costs(postgres) == [Decimal("0.0175")] * 4
    assert "0.0175" in again.stdout


@pytest.mark.usefixtures("rolled")
def test_a_price_table_of_an_earlier_release_goes_on_working_by_its_name(
    run: Run, postgres: psycopg.Connection
) -> None:
    postgres.execute(
        "insert into analytics.price_versions (price_version, source, checksum) values ('negotiated', 'csv', 'x')"
    )
    postgres.execute(
        "insert into analytics.model_prices (price_version, provider, model, input_usd, output_usd) "
        "values ('negotiated', 'openai', 'gpt-4o', 5, 20), ('negotiated', 'acme', 'own', 1, 1)"
    )
    done = run("recost", "--from", str(DAY), "--to", str(DAY), "--version", "negotiated")
    assert done.returncode == 0, done.stderr
    assert costs(postgres) == [Decimal("0.0225")] * 4


@pytest.mark.usefixtures("rolled")
def test_an_archived_day_keeps_its_costs_and_its_version_and_is_told(
    run: Run, settings: Settings, postgres: psycopg.Connection, table: Path
) -> None:
    import_prices(postgres, list(read_own_prices(table)))
    archive_chunk(postgres, WINDOW)
    other = DAY + timedelta(days=1)
    store_events(postgres, settings, NOW, event_at(AT + timedelta(days=1)))
    done = run("recost", "--from", str(DAY), "--to", str(other))
    assert done.returncode == 1
    assert f"archive restore {DAY}" in " ".join(done.stderr.split())
    assert costs(postgres)[:2] == [Decimal("0.01")] * 2
    versions = dict(postgres.execute("select usage_date, price_version from analytics.day_prices").fetchall())
    assert versions == {DAY: INSTALLED, other: f"{INSTALLED} + own 1"}


@pytest.mark.usefixtures("rolled")
def test_an_interrupted_recost_is_finished_by_the_late_windows(
    settings: Settings, postgres: psycopg.Connection, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_prices(postgres, list(read_own_prices(table)))
    ours = f"{INSTALLED} + own 1"

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("usage_pipeline.rollups.recost.replace_window", die)
        with pytest.raises(KeyboardInterrupt):
            list(recost(postgres, [DAY], ours, settings=settings))
    for _ in range(3):
        for stale in stale_windows(postgres, time_zone=ZONE, now=NOW + timedelta(days=60)):
            windows.replace_window(postgres, stale.window, settings=settings)
    assert costs(postgres) == [Decimal("0.0175")] * 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "2026-01-02", "--to", "2026-01-01"), "--to: expected a date from 2026-01-02 to today"),
        (("--from", "2026-01-01", "--to", "2999-01-01"), "--to: expected a date from"),
        (("--from", "yesterday", "--to", "2026-01-01"), "--from: expected a date"),
        (
            ("--from", "2026-01-01", "--to", "2026-01-01", "--version", "ours"),
            "--version: expected a stored price version, such as",
        ),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_status_2(run: Run, arguments: tuple[str, ...], told: str) -> None:
    done = run("recost", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_dates_in_the_tests_are_in_the_past() -> None:
    assert date(2025, 1, 1) < DAY < NOW.date()


def test_the_live_view_prices_a_day_as_its_first_roll_up_will(
    settings: Settings, postgres: psycopg.Connection, run: Run, tmp_path: Path
) -> None:
    store_events(postgres, settings, NOW, event_at(AT - timedelta(days=1)), event_at(AT))
    replace_window(postgres, calendar.day_window(DAY - timedelta(days=1), ZONE), settings=settings, now=NOW)
    live = """
        select (select price_version from analytics.day_prices where day_start <= hour_start and day_end > hour_start), cost_usd
        from analytics.usage_hourly_live
        where hour_start = %s
    """
    [(version, before)] = postgres.execute(live, (HOUR.start,)).fetchall()
    assert (version, before > 0) == (None, True)
    path = tmp_path / "prices.csv"
    path.write_text(PRICES)
    assert run("prices", "import", path).returncode == 0
    [(version, own)] = postgres.execute(live, (HOUR.start,)).fetchall()
    assert (version, own > before) == (None, True)
    # Neither an older version that another day has again nor a table of an earlier release is what a roll-up takes.
    list(recost(postgres, [DAY - timedelta(days=1)], INSTALLED, settings=settings))
    postgres.execute("insert into analytics.price_versions (price_version, source) values ('a table', 'csv')")
    assert postgres.execute(live, (HOUR.start,)).fetchall() == [(None, own)]
    replace_window(postgres, HOUR, settings=settings, now=NOW)
    assert postgres.execute(live, (HOUR.start,)).fetchall() == [(f"{INSTALLED} + own 1", own)]

"""Pictures: which there are, that they are small and readable PNGs, and that a slow query leaves one out and harms nothing."""

from datetime import UTC, date, datetime, timedelta
from io import BytesIO

import psycopg
import pytest
from PIL import Image

from usage_pipeline.plots import series
from usage_pipeline.plots.drawing import COLORS, draw_bars, draw_lines, draw_ranking
from usage_pipeline.plots.series import TRENDS, backlog_picture, partition_pictures, ranking_picture
from usage_pipeline.storage.catalog import stored_catalog

DAY = date(2026, 11, 20)
MOST_BYTES = 15_000


def pixels(picture: bytes) -> dict[tuple[int, ...], int]:
    """How often each colour is in it."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    assert image.size[0] == 800
    found = image.getcolors(1 << 24)
    assert found is not None
    return {color: number for number, color in found}  # type: ignore[misc]


def near(color: str, found: dict[tuple[int, ...], int]) -> int:
    wanted = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return sum(
        number for one, number in found.items() if max(abs(a - b) for a, b in zip(one, wanted, strict=True)) < 24
    )


def test_the_newest_bar_stands_out_on_a_background_of_its_own() -> None:
    times = [datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=day) for day in range(20)]
    picture = draw_bars("Requests per day", times, [float(100 + day) for day in range(20)], width=timedelta(days=1))
    found = pixels(picture)
    assert len(picture) < MOST_BYTES
    # Light paper, whatever the theme of the page.
    assert min(max(found, key=lambda color: found[color])) > 240
    assert 0 < near(COLORS[0], found) < near("#9db8e3", found)


def test_lines_have_a_colour_each_and_gaps_where_there_is_nothing() -> None:
    times = [datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=day) for day in range(20)]
    full = {name: [float(place + 1)] * 20 for place, name in enumerate(("p50", "p95", "p99"))}
    whole, gapped = (
        pixels(draw_lines("Latency", times, lines))
        for lines in (full, {**full, "p99": [None if 4 < day < 15 else 3.0 for day in range(20)]})
    )
    assert all(near(color, whole) for color in COLORS[:3])
    assert 0 < near(COLORS[2], gapped) < 0.8 * near(COLORS[2], whole)


def test_a_ranking_takes_names_as_they_are() -> None:
    picture = draw_ranking("Models", [("$\\frac{1}$ <b>&", 10.0), ("n" * 300, 5.0), ("", 0.0)])
    assert len(picture) < MOST_BYTES
    assert near(COLORS[0], pixels(picture))
    assert ranking_picture("Models", []) == {}
    assert list(ranking_picture("Models", [{"title": "one", "score": "12.5"}])) == ["Models"]


def test_a_backlog_is_drawn_from_its_first_reading_on() -> None:
    assert backlog_picture("Waiting", []) == {}
    assert list(backlog_picture("Waiting", [(datetime(2026, 11, 1, tzinfo=UTC), 5.0)])) == ["Waiting"]


@pytest.mark.parametrize("table", TRENDS)
def test_trends_are_of_columns_that_there_are(table: str) -> None:
    trend = TRENDS[table]
    assert {trend.column, trend.value} <= {column.name for column in stored_catalog()[table].columns}


def test_a_day_has_a_picture_of_what_led_up_to_it_and_none_without_rows(postgres: psycopg.Connection) -> None:
    for ago in range(40):
        postgres.execute(
            "insert into usage.token_daily (usage_date, token_id, usage_count) values (%s, 't', %s)",
            (DAY - timedelta(days=ago), 10 + ago),
        )
    assert list(partition_pictures(postgres, "usage.token_daily", DAY)) == ["Uses of API tokens per day"]
    assert partition_pictures(postgres, "usage.token_daily", DAY - timedelta(days=90)) == {}
    assert partition_pictures(postgres, "app.issues", DAY) == {}


def test_percentiles_are_those_of_all_requests_of_a_day(
    postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for team, latencies in (("a", range(1, 51)), ("b", range(51, 101))):
        postgres.execute(
            "insert into analytics.usage_latency_daily (usage_date, team, service, provider, model, latencies_ms, requests) "
            "values (%s, %s, 's', 'p', 'm', %s, %s)",
            (DAY, team, list(latencies), [2] * 50),
        )
    drawn = {}
    monkeypatch.setattr(series, "draw_lines", lambda title, times, lines: drawn.update(lines) or b"")
    assert list(partition_pictures(postgres, "analytics.usage_daily", DAY)) == [
        "Latency of all LLM requests per day, ms"
    ]
    assert drawn == {"p50": [50.0], "p95": [95.0], "p99": [99.0]}


def test_numbers_that_take_too_long_leave_the_picture_out(
    postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.execute("insert into usage.token_daily (usage_date, token_id, usage_count) values (%s, 't', 1)", (DAY,))
    monkeypatch.setattr(series, "composed", lambda name, **parts: "select pg_sleep(60)")
    monkeypatch.setattr(series, "_QUERY_TIMEOUT", "set local statement_timeout = '50ms'")
    assert partition_pictures(postgres, "usage.token_daily", DAY) == {}
    assert postgres.execute("show statement_timeout").fetchone() == ("0",)

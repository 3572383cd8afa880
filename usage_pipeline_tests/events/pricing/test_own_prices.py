"""Price tables of one's own: every fault is named with its line, and a version never changes."""

from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from usage_pipeline.events.pricing.own_prices import (
    PriceTableError,
    has_price_version,
    read_price_table,
    store_price_table,
)
from usage_pipeline.events.pricing.prices import Price

HEADER = "provider,model,input_usd,output_usd"
BOUNDS = f"{HEADER},valid_from,valid_until,daily_from,daily_until,input_tokens_from,input_tokens_until"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "prices.csv"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_is_read_with_its_bounds(written: Path) -> None:
    table = read_price_table(
        write(
            written,
            f"{BOUNDS},request_usd",
            "p,m,2.50,10,,2026-01-01,,,,,",
            "p,m,3,12,2026-01-01,,08:00,24:00,0,1000,0.01",
            "p,m,1,12,2026-01-01,,,08:00,,1000,",
        )
    )
    midnight = datetime(2026, 1, 1, tzinfo=UTC)
    assert set(table.prices) == {
        Price("p", "m", Decimal("2.5"), Decimal(10), valid_until=midnight),
        Price(
            "p",
            "m",
            Decimal(3),
            Decimal(12),
            request_usd=Decimal("0.01"),
            valid_from=midnight,
            daily_from=time(8),
            input_tokens_until=1_000,
        ),
        Price("p", "m", Decimal(1), Decimal(12), valid_from=midnight, daily_until=time(8), input_tokens_until=1_000),
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("p,m,-1,2,,,,,,", "line 2: input_usd: expected 0 to 1,000,000 US dollars, came '-1'"),
        ("p,m,1,NaN,,,,,,", "line 2: output_usd: expected 0 to 1,000,000 US dollars, came 'NaN'"),
        ("p,m,1,1e9,,,,,,", "line 2: output_usd: expected 0 to"),
        ("p,m,free,2,,,,,,", "line 2: input_usd: expected US dollars such as 2.50, came 'free'"),
        ("p,m,,2,,,,,,", "line 2: input_usd: expected US dollars such as 2.50, came ''"),
        (f"p,m,0.{'1' * 29},2,,,,,,", "line 2: input_usd: expected at most 28 digits"),
        (",m,1,2,,,,,,", "line 2: provider: expected 1 to 200 characters, came 0"),
        ("p,m,1,2,2026-02-30,,,,,", "line 2: valid_from: expected a date YYYY-MM-DD, came '2026-02-30'"),
        ("p,m,1,2,2026-02-02,2026-02-02,,,,", "line 2: valid_until: expected more than valid_from"),
        ("p,m,1,2,,,8 am,,,", "line 2: daily_from: expected a time of day HH:MM in UTC, came '8 am'"),
        ("p,m,1,2,,,08:00+02:00,,,", "line 2: daily_from: expected a time of day HH:MM in UTC without an offset"),
        ("p,m,1,2,,,08:00,07:00,,", "line 2: daily_until: expected more than daily_from"),
        ("p,m,1,2,,,,,-5,", "line 2: input_tokens_from: expected a count of 0 or more"),
        ("p,m,1,2,,,,,5,5", "line 2: input_tokens_until: expected more than input_tokens_from = 5, came 5"),
        ("p,m,1,2", "line 2: expected 10 values, came more or fewer"),
        ("p,m,1,2,,,,,,,,", "line 2: expected 10 values, came more or fewer"),
    ],
)
def test_a_fault_is_named_with_its_line(line: str, fault: str, written: Path) -> None:
    with pytest.raises(PriceTableError) as raised:
        read_price_table(write(written, BOUNDS, line))
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "other",
    [
        "p,m,1,2,,,,,,",
        "p,m,1,2,2026-06-01,,,,,",
        "p,m,1,2,,2026-01-02,,,,",
        "p,m,1,2,,,20:00,,,",
        "p,m,1,2,,,,,500,",
    ],
)
def test_prices_that_hold_for_the_same_request_are_refused(other: str, written: Path) -> None:
    with pytest.raises(
        PriceTableError, match=r"line 3: expected prices of p/m that do not overlap, .* overlaps with line 2"
    ):
        read_price_table(write(written, BOUNDS, "p,m,5,5,2026-01-01,,08:00,,100,1000", other))


@pytest.mark.parametrize(
    "other",
    [
        "p,m,1,2,,2026-01-01,,,,",
        "p,m,1,2,,,,08:00,,",
        "p,m,1,2,,,,,1000,",
        "p,n,1,2,,,,,,",
        "q,m,1,2,,,,,,",
    ],
)
def test_prices_that_only_touch_are_taken(other: str, written: Path) -> None:
    path = write(written, BOUNDS, "p,m,5,5,2026-01-01,,08:00,,100,1000", other)
    assert len(read_price_table(path).prices) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "line 1: expected the columns provider, model"),
        (HEADER, "expected at least one price, came none"),
        ("provider,model,input_usd\np,m,1", "came provider, model, input_usd"),
        (f"{HEADER},colour\np,m,1,2,red", "came provider, model, input_usd, output_usd, colour"),
        (f"{HEADER},model\np,m,1,2,m", "line 1: expected the columns"),
        (f"{HEADER}\np,m,1,2\np,m,1,2.0", "line 3: expected each price once, came line 2 again"),
        (f'{HEADER}\np,"m,1,2', "expected a CSV file in UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(text: str, fault: str, written: Path) -> None:
    with pytest.raises(PriceTableError) as raised:
        read_price_table(write(written, text))
    assert fault in str(raised.value)


def test_many_faults_are_counted_and_some_shown(written: Path) -> None:
    with pytest.raises(PriceTableError, match=r"line 11: .*; and 20 more$"):
        read_price_table(write(written, HEADER, *["p,m,x,2"] * 30))


def test_no_file_and_other_encodings_are_told(written: Path) -> None:
    with pytest.raises(PriceTableError, match="expected a CSV file in UTF-8"):
        read_price_table(written)
    written.write_bytes(b"\xff\xfe")
    with pytest.raises(PriceTableError, match="expected a CSV file in UTF-8"):
        read_price_table(written)


def test_a_version_is_stored_once_and_never_changes(written: Path, postgres: psycopg.Connection) -> None:
    table = read_price_table(write(written, HEADER, "p,m,1,2"))
    assert not has_price_version(postgres, "ours")
    for _ in range(2):
        store_price_table(postgres, "ours", table)
    assert has_price_version(postgres, "ours")
    same = read_price_table(write(written, "model,provider,output_usd,input_usd", "m,p,2.0,1.00"))
    store_price_table(postgres, "ours", same)
    other = read_price_table(write(written, HEADER, "p,m,1,3"))
    with pytest.raises(PriceTableError, match=r"version 'ours': .* choose another name"):
        store_price_table(postgres, "ours", other)
    rows = postgres.execute("select price_version, input_usd, output_usd from analytics.model_prices").fetchall()
    assert rows == [("ours", 1, 2)]
    with pytest.raises(PriceTableError, match="does not begin with genai-prices"):
        store_price_table(postgres, "genai-prices 99", other)

"""A price table of the user, as CSV. It is read and checked as a whole, then stored as a price version that never changes."""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from itertools import combinations
from pathlib import Path
from typing import Any

import psycopg

from usage_pipeline import values
from usage_pipeline.events.pricing.prices import PACKAGE, Price, add_prices, add_version, package_version
from usage_pipeline.values import Malformed

_REQUIRED = ("provider", "model", "input_usd", "output_usd")
_OPTIONAL = (
    "request_usd",
    "valid_from",
    "valid_until",
    "daily_from",
    "daily_until",
    "input_tokens_from",
    "input_tokens_until",
)
_SHOWN_FAULTS = 10
_MOST_USD = Decimal(1_000_000)


class PriceTableError(ValueError):
    """The table cannot be used. The message has each fault with its line, what was expected and what came."""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices that do not overlap, and their SHA-256."""

    prices: tuple[Price, ...]
    checksum: str


def read_price_table(path: Path) -> PriceTable:
    """Reads a CSV with a header: provider, model, input_usd and output_usd (US dollars per million tokens). These columns are
    optional and may be empty: request_usd, valid_from and valid_until (dates, from midnight UTC), daily_from and daily_until
    (times of day, UTC), input_tokens_from and input_tokens_until. The value of each `until` is not included.

    Raises PriceTableError with all faults (the first ten if there are more).
    """
    faults: list[str] = []
    lines: dict[Price, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, price in _rows(csv.DictReader(file, strict=True), faults):
                if price in lines:
                    faults.append(f"line {line}: expected each price once, came line {lines[price]} again")
                lines[price] = line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PriceTableError(f"{path}: expected a CSV file in UTF-8: {error}") from None
    faults += _overlaps(lines)
    if not lines and not faults:
        faults.append("expected at least one price, came none")
    if faults:
        rest = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise PriceTableError(f"{path}: {'; '.join(faults[:_SHOWN_FAULTS])}{rest}")
    prices = tuple(sorted(lines, key=repr))
    return PriceTable(prices, hashlib.sha256(repr(prices).encode()).hexdigest())


def store_price_table(connection: psycopg.Connection, price_version: str, table: PriceTable) -> None:
    """Stores the table under that name, on an autocommit connection. To store the same table again changes nothing.

    Raises PriceTableError when another table has the name.
    """
    if price_version.startswith(PACKAGE):
        raise PriceTableError(f"expected a version that does not begin with {PACKAGE}, came {price_version!r}")
    with connection.transaction():
        add_version(connection, price_version, source="csv", checksum=table.checksum)
        known = connection.execute(
            "select checksum from analytics.price_versions where price_version = %s", (price_version,)
        ).fetchone()
        if known != (table.checksum,):
            raise PriceTableError(
                f"version {price_version!r}: expected the prices that are stored under this name, came others. "
                "The prices of a version never change: choose another name"
            )
        add_prices(connection, price_version, table.prices)


def has_price_version(connection: psycopg.Connection, price_version: str) -> bool:
    """Whether the version can be used: it is stored, or it is the version of the installed package."""
    if price_version == package_version():
        return True
    query = "select 1 from analytics.price_versions where price_version = %s"
    return connection.execute(query, (price_version,)).fetchone() is not None


def _rows(reader: "csv.DictReader[str]", faults: list[str]) -> Iterator[tuple[int, Price]]:
    header = [name.strip() for name in reader.fieldnames or ()]
    missing = [name for name in _REQUIRED if name not in header]
    unknown = [name for name in header if name not in (*_REQUIRED, *_OPTIONAL)]
    if missing or unknown or len(set(header)) < len(header):
        faults.append(
            f"line 1: expected the columns {', '.join(_REQUIRED)} and optionally {', '.join(_OPTIONAL)}, "
            f"came {', '.join(header) or 'none'}"
        )
        return
    reader.fieldnames = header
    for row in reader:
        if None in row or None in row.values():
            faults.append(f"line {reader.line_num}: expected {len(header)} values, came more or fewer")
            continue
        try:
            yield reader.line_num, _price({name: value.strip() for name, value in row.items()})
        except Malformed as malformed:
            faults.append(f"line {reader.line_num}: {malformed}")


def _price(row: Mapping[str, str]) -> Price:
    price = Price(
        provider=values.identifier_text("provider", row["provider"]),
        model=values.identifier_text("model", row["model"]),
        input_usd=_usd("input_usd", row["input_usd"]),
        output_usd=_usd("output_usd", row["output_usd"]),
        request_usd=_usd("request_usd", row.get("request_usd") or "0"),
        valid_from=_midnight("valid_from", row.get("valid_from")),
        valid_until=_midnight("valid_until", row.get("valid_until")),
        daily_from=_time("daily_from", row.get("daily_from")) or time(0, 0),
        daily_until=_time("daily_until", row.get("daily_until")),
        input_tokens_from=_tokens("input_tokens_from", row.get("input_tokens_from")) or 0,
        input_tokens_until=_tokens("input_tokens_until", row.get("input_tokens_until")),
    )
    for name, (start, end) in _bounds(price).items():
        if start is not None and end is not None and not start < end:
            raise Malformed(f"{name}_until: expected more than {name}_from = {start}, came {end}")
    return price


def _bounds(price: Price) -> dict[str, tuple[Any, Any]]:
    return {
        "valid": (price.valid_from, price.valid_until),
        "daily": (price.daily_from, price.daily_until),
        "input_tokens": (price.input_tokens_from, price.input_tokens_until),
    }


def _overlaps(lines: Mapping[Price, int]) -> list[str]:
    """Faults of two prices of a model that hold for the same request: it would not be clear which one counts."""
    by_model: dict[tuple[str, str], list[Price]] = {}
    for price in lines:
        by_model.setdefault((price.provider, price.model), []).append(price)
    return [
        f"line {lines[other]}: expected prices of {provider}/{model} that do not overlap, came one that overlaps with line "
        f"{lines[one]}"
        for (provider, model), prices in by_model.items()
        for one, other in combinations(prices, 2)
        if all(
            _is_before(start, other_end) and _is_before(other_start, end)
            for (start, end), (other_start, other_end) in zip(
                _bounds(one).values(), _bounds(other).values(), strict=True
            )
        )
    ]


def _is_before(start: Any, end: Any) -> bool:
    return start is None or end is None or start < end


def _usd(name: str, text: str) -> Decimal:
    try:
        usd = Decimal(text)
    except InvalidOperation:
        raise Malformed(f"{name}: expected US dollars such as 2.50, came {text!r}") from None
    if not (usd.is_finite() and 0 <= usd <= _MOST_USD):
        raise Malformed(f"{name}: expected 0 to {_MOST_USD:,} US dollars, came {text!r}")
    if usd.normalize() != usd:
        raise Malformed(f"{name}: expected at most 28 digits, came {text!r}")
    return usd.normalize()


def _midnight(name: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise Malformed(f"{name}: expected a date YYYY-MM-DD, came {text!r}") from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _time(name: str, text: str | None) -> time | None:
    """A time of day. 24:00 is the end of the day, so it sets no bound."""
    if not text or text == "24:00":
        return None
    try:
        at = time.fromisoformat(text)
    except ValueError:
        raise Malformed(f"{name}: expected a time of day HH:MM in UTC, came {text!r}") from None
    if at.tzinfo is not None:
        raise Malformed(f"{name}: expected a time of day HH:MM in UTC without an offset, came {text!r}")
    return at


def _tokens(name: str, text: str | None) -> int | None:
    return values.count(name, text.encode()) if text else None

"""Prices of one's own as a CSV file: read and checked as a whole, and written so that they can be read again."""

import csv
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO

from usage_pipeline import values
from usage_pipeline.events.pricing import names
from usage_pipeline.events.pricing.own_prices import ANY, OwnPrice
from usage_pipeline.events.units.registry import UNITS
from usage_pipeline.values import Malformed

PRICE_KEYS = tuple(unit.price_key for unit in UNITS.values())
_NAMED = ("provider", "model")
_OTHERS = ("priced_as", "factor", "service_tier", "valid_from", "valid_until")
_COLUMNS = (*_NAMED, *_OTHERS, *PRICE_KEYS)
# Columns of the price tables of earlier releases, and what says the same now.
_OLD_COLUMNS = {
    "input_usd": "input_mtok",
    "output_usd": "output_mtok",
    "request_usd": "requests_kcount, for 1,000 requests",
    "daily_from": "nothing",
    "daily_until": "nothing",
    "input_tokens_from": "nothing",
    "input_tokens_until": "nothing",
}
_KNOWN = frozenset((*_COLUMNS, *_OLD_COLUMNS))
_SHOWN_FAULTS = 10
_MOST_USD = Decimal(1_000_000)
_MOST_FACTOR = Decimal(1_000)
_MOST_DIGITS = 28
_PLAIN_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?")


class PriceTableError(ValueError):
    """The prices cannot be used. The message has each fault with its line, what was expected and what came."""


def read_own_prices(path: Path) -> dict[OwnPrice, int]:
    """The rows of a CSV file with their lines: `provider`, `model`, then any of `priced_as`, `factor`, `service_tier`,
    `valid_from`, `valid_until` and the price keys of the package. With `,`, `;` or tabs, in UTF-8.

    Raises PriceTableError with all faults (the first ten if there are more).
    """
    faults: list[str] = []
    lines: dict[OwnPrice, int] = {}
    by_key: dict[object, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
                # Some devices have no end.
                raise PriceTableError(f"{path}: expected a CSV file in UTF-8, came a device")
            for line, row in _rows(file, faults):
                if row.key in by_key:
                    faults.append(
                        f"line {line}: expected one row for each provider, model, service_tier and valid_from, "
                        f"came those of line {by_key[row.key]} again"
                    )
                by_key[row.key] = line
                lines[row] = line
    except OSError as error:
        raise PriceTableError(f"{path}: expected a CSV file in UTF-8, came: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PriceTableError(f"{path}: expected a CSV file in UTF-8: {error}") from None
    refuse(str(path), faults)
    return lines


def refuse(what: str, faults: Sequence[str]) -> None:
    """Raises PriceTableError if there are faults."""
    if faults:
        rest = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise PriceTableError(f"{what}: {'; '.join(faults[:_SHOWN_FAULTS])}{rest}")


def write_own_prices(rows: Collection[OwnPrice], file: IO[str]) -> None:
    """Writes rows as CSV, with the columns of prices that any of them has. To import them again gives the same."""
    priced = {key for row in rows for key in row.prices}
    columns = [*_NAMED, *_OTHERS, *(key for key in PRICE_KEYS if key in priced)]
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_texts(rows))


def as_texts(rows: Iterable[OwnPrice]) -> list[dict[str, str]]:
    """Rows as texts by the names of their columns; what a row does not say is left out."""
    return [_texts(row) for row in rows]


def moment(name: str, text: str | None) -> datetime | None:
    """A time with its offset, or a date, which begins at midnight UTC; None for no text. Raises Malformed."""
    if not text:
        return None
    # Python also reads 20240101 and 2024-W01-1, with or without a time.
    at = None
    with suppress(ValueError):
        day = date.fromisoformat(text[:10])
        if day.isoformat() == text:
            return datetime.combine(day, time(0), UTC)
        at = datetime.fromisoformat(text) if day.isoformat() == text[:10] else None
    if at is None or at.tzinfo is None:
        raise Malformed(
            f"{name}: expected a date YYYY-MM-DD, from midnight UTC, or a time with its offset such as "
            f"2026-11-01T08:00:00Z, came {_shown(text)}"
        )
    return at.astimezone(UTC)


def _rows(file: IO[str], faults: list[str]) -> Iterator[tuple[int, OwnPrice]]:
    first = file.readline()
    delimiter = max(",;\t", key=lambda one: len(_KNOWN & {name.strip().strip('"') for name in first.split(one)}))
    header = [name.strip() for name in next(csv.reader([first], strict=True, delimiter=delimiter), [])]
    if fault := _header_fault(header):
        faults.append(f"line 1: {fault}")
        return
    reader = csv.reader(file, strict=True, delimiter=delimiter)
    for row in reader:
        line = reader.line_num + 1
        # Spreadsheets end their files with rows of nothing.
        if not any(value.strip() for value in row):
            continue
        if len(row) != len(header):
            faults.append(f"line {line}: expected {len(header)} values, came {len(row)}")
            continue
        try:
            yield line, _own_price({name: value.strip() for name, value in zip(header, row, strict=True)})
        except Malformed as malformed:
            faults.append(f"line {line}: {malformed}")


def _header_fault(header: Sequence[str]) -> str:
    if old := [name for name in header if name in _OLD_COLUMNS]:
        said = "; ".join(f"{name} is now {_OLD_COLUMNS[name]}" for name in old)
        return f"expected the price keys of the package as columns, such as input_mtok and cache_read_mtok, came {said}"
    missing = [name for name in _NAMED if name not in header]
    unknown = [name for name in header if name not in _COLUMNS]
    twice = sorted({name for name in header if header.count(name) > 1})
    if not (missing or unknown or twice):
        return ""
    faults = [("missing", missing), ("unknown", unknown), ("twice", twice)]
    wrong = "; ".join(f"{what}: {values.shown(', '.join(some).encode())}" for what, some in faults if some)
    return (
        f"expected the columns {', '.join(_NAMED)}, and optionally {', '.join(_OTHERS)} and price keys of the package, "
        f"such as input_mtok, came {wrong}"
    )


def _own_price(row: Mapping[str, str]) -> OwnPrice:
    start, end = moment("valid_from", row.get("valid_from")), moment("valid_until", row.get("valid_until"))
    if start is not None and end is not None and not start < end:
        raise Malformed(f"valid_until: expected more than valid_from = {row['valid_from']}, came {row['valid_until']}")
    own = OwnPrice(
        provider=values.identifier_text("provider", row["provider"]).lower(),
        model=values.identifier_text("model", row["model"]).lower(),
        service_tier=_tier(row.get("service_tier") or ""),
        valid_from=start,
        valid_until=end,
        priced_as=_alias(row.get("priced_as") or ""),
        factor=_decimal("factor", row["factor"], _MOST_FACTOR, "0.8") if row.get("factor") else None,
        prices={key: _decimal(key, row[key], _MOST_USD, "2.50") for key in PRICE_KEYS if row.get(key)},
    )
    if own.priced_as is None and own.factor is None and not own.prices:
        raise Malformed("expected a priced_as, a factor or a price, came a row without any of them")
    return own


def _tier(text: str) -> str:
    return values.identifier_text("service_tier", text).lower() if text else ""


def _alias(text: str) -> str | None:
    if not text:
        return None
    provider, separator, model = text.partition("/")
    if not (provider and separator and model) or ANY in text:
        raise Malformed(
            f"priced_as: expected provider/model of the package, such as openai/gpt-4o, came {_shown(text)}"
        )
    found = names.find_alias(text)
    if found is None:
        near = names.nearest(provider, model)
        hint = f"; the nearest one is {near}" if near else ""
        raise Malformed(f"priced_as: expected a model of the price package, came {_shown(text)}{hint}")
    return found.name


def _decimal(name: str, text: str, most: Decimal, example: str) -> Decimal:
    try:
        number = Decimal(text) if _PLAIN_NUMBER.fullmatch(text) else None
    except InvalidOperation:
        number = None
    if number is None:
        raise Malformed(f"{name}: expected a number such as {example}, came {_shown(text)}")
    if not number <= most:
        raise Malformed(f"{name}: expected 0 to {most:,}, came {_shown(text)}")
    if len(number.as_tuple().digits) > _MOST_DIGITS:
        raise Malformed(f"{name}: expected at most {_MOST_DIGITS} digits, came {_shown(text)}")
    return number.normalize()


def _texts(row: OwnPrice) -> dict[str, str]:
    prices = {key: _number(row.prices[key]) for key in PRICE_KEYS if key in row.prices}
    others = {
        "priced_as": row.priced_as or "",
        "factor": "" if row.factor is None else _number(row.factor),
        "service_tier": row.service_tier,
        "valid_from": _moment_text(row.valid_from),
        "valid_until": _moment_text(row.valid_until),
    }
    return {
        "provider": row.provider,
        "model": row.model,
        **{name: text for name, text in others.items() if text},
        **prices,
    }


def _moment_text(at: datetime | None) -> str:
    if at is None:
        return ""
    utc = at.astimezone(UTC)
    return utc.date().isoformat() if utc.time() == time(0) else utc.isoformat().replace("+00:00", "Z")


def _number(number: Decimal) -> str:
    return format(number, "f")


def _shown(text: str) -> str:
    return values.shown(text.encode())

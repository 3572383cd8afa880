"""Writes files of events as other programs do: pandas, pyarrow, the csv module."""

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

PACKINGS = ("", ".gz", ".zst")


def packed(content: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.compress(content)
    if packing == ".zst":
        return zstd(content)
    return content


def zstd(content: bytes) -> bytes:
    found: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return found


def as_csv(rows: Sequence[Mapping[str, Any]], **options: Any) -> bytes:
    """Objects in cells are JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, **options)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(one) if isinstance(one, dict | list) else one for name, one in row.items()})
    return text.getvalue().encode()


def as_parquet(rows: Sequence[Mapping[str, Any]] | pd.DataFrame, **options: Any) -> bytes:
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return frame.to_parquet(**options)


def as_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_document(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps(list(rows)).encode()


WRITERS = {
    ".json": as_document,
    ".jsonl": as_lines,
    ".ndjson": as_lines,
    ".csv": as_csv,
    ".parquet": as_parquet,
}

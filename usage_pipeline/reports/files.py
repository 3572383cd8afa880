"""The files of a report: CSV, Parquet and the picture, and the folder where they are kept (REPORTS_URL)."""

import os
from collections.abc import Mapping
from pathlib import Path

import fsspec

from usage_pipeline.exports.encodings import CsvEncoding, Encoding, ParquetEncoding
from usage_pipeline.reports.contents import Contents
from usage_pipeline.reports.picture import draw_report

Files = Mapping[str, bytes]
"""The bytes of each file by its name."""


class ReportsUnavailable(Exception):
    """The folder of the reports cannot be written. The message is one line without the address, which may hold a password."""


def files_of(contents: Contents) -> Files:
    """The table as CSV and Parquet, and the picture."""
    encodings: Mapping[str, Encoding] = {
        "csv": CsvEncoding(contents.columns),
        "parquet": ParquetEncoding(contents.columns),
    }
    files = {
        f"{contents.report.name}.{kind}": encoding.rows(contents.rows) + encoding.end()
        for kind, encoding in encodings.items()
    }
    return {**files, f"{contents.report.name}.png": draw_report(contents)}


def keep(url: str, files: Files) -> None:
    """Writes the files below a folder or fsspec address, each whole or not at all. Raises ReportsUnavailable."""
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
        filesystem.makedirs(root, exist_ok=True)
        is_local = "file" in filesystem.protocol
        for name, content in files.items():
            path = f"{str(root).rstrip('/')}/{name}"
            if is_local:
                _replace(Path(path), content)
            else:
                # An object is there when all of it is.
                filesystem.pipe_file(path, content)
    except Exception as error:
        # Each kind of place has errors of its own. Their texts may hold the address with its secrets: the type is told.
        reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        raise ReportsUnavailable(f"REPORTS_URL: cannot write to it ({type(error).__name__}{reason})") from None


def _replace(path: Path, content: bytes) -> None:
    """So that nobody reads a part of the file."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    unfinished.replace(path)

"""What the name of a file says: how its rows are written, how it is packed, and which format it has. Pure; no I/O."""

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

Format = Literal["events", "litellm-spend-logs", "openai-usage", "langfuse"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
AUTO: Final = "auto"
KINDS_READ: Final = "*.json, *.jsonl, *.ndjson, *.csv and *.parquet, also with .gz or .zst, in any case of letters"

Content = Literal["document", "lines", "csv", "parquet"]
Packing = Literal["", "gz", "zst"]
_CONTENTS: dict[str, Content] = {
    "json": "document",
    "jsonl": "lines",
    "ndjson": "lines",
    "csv": "csv",
    "parquet": "parquet",
}
_NAME = re.compile(r"[^/]+\.(jsonl?|ndjson|csv|parquet)(?:\.(gz|zst))?", re.IGNORECASE)
# What `done/` and `broken/` put behind a name that is there already.
_MOVED_AT = re.compile(r"\.[0-9]{8}T[0-9]{12}$")
_PLACES: dict[Content, str] = {"document": "item", "lines": "line", "csv": "line", "parquet": "row"}


@dataclass(frozen=True, slots=True)
class FileKind:
    """How the rows of a file are written, and how it is packed."""

    content: Content
    packing: Packing = ""

    @property
    def place(self) -> str:
        """What a position in such a file counts: lines and rows from 1 on, items of a document from 0 on."""
        return _PLACES[self.content]


def kind_of(address: str) -> FileKind | None:
    """The kind of a file by the end of its name; None for one that is not read."""
    found = _NAME.fullmatch(address.rpartition("/")[2])
    if found is None:
        return None
    packing: Packing = "gz" if (found[2] or "").lower() == "gz" else "zst" if found[2] else ""
    return FileKind(_CONTENTS[found[1].lower()], packing)


def kind_once_of(address: str) -> FileKind | None:
    """The same, also of a file that was put away beside one of its name."""
    return kind_of(_MOVED_AT.sub("", address))


def format_by_folder(address: str) -> Format | None:
    """The format after which one of the folders of a file is named; None if none is."""
    folders = address.split("/")[:-1]
    return next((one for folder in folders for one in FORMATS if folder == one), None)

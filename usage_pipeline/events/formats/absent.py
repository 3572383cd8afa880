"""What stands for nothing in the cells of exports. Pure; no I/O."""

from collections.abc import Mapping
from typing import Any

# How pandas, Python and databases write that there is nothing.
NOTHING = frozenset(("", "nan", "NaN", "None", "NaT", "<NA>", "null", "NULL", r"\N"))


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells that hold something."""
    return {name: value for name, value in row.items() if value is not None and not _is_nothing(value)}


def _is_nothing(value: Any) -> bool:
    return value in NOTHING if isinstance(value, str) else isinstance(value, float) and value != value

"""Reads the queries of the `sql/` folder by name. No query is built here."""

from functools import cache
from pathlib import Path


def sql_folder() -> Path:
    """Where the SQL files are: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "sql"
    return packaged if packaged.is_dir() else package.parent / "sql"


@cache
def load(name: str) -> str:
    """The text of `sql/<name>.sql`, for example `load("rollups/replace_api_key_daily")`.

    Raises FileNotFoundError if there is no such query.
    """
    return (sql_folder() / f"{name}.sql").read_text(encoding="utf-8")

"""Reads the queries of the `sql/` folder by name, and puts those together that share a part.

A `{part}` in a file stands for what differs between its uses: a table, a list of columns, or a fragment, which is a file of
`sql/` too, written once for all queries that share it. Values are parameters, `%(value)s`, and never become text.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from psycopg import sql as compose


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


def composed(name: str, **parts: compose.Composable) -> compose.Composed:
    """The query or fragment `sql/<name>.sql`, with each `{part}` in it replaced; parts that it does not name are left out.

    Raises FileNotFoundError if there is no such file, KeyError if it names a part that is not given.
    """
    return compose.SQL(load(name)).format(**parts)


def relation(name: str) -> compose.Identifier:
    """The table or view of that name, `schema.name`."""
    return compose.Identifier(*name.split("."))


def column_list(names: Iterable[str], of: str | None = None) -> compose.Composed:
    """These columns with commas between them, each of the table or alias `of` where that is given."""
    return compose.SQL(", ").join(compose.Identifier(*filter(None, (of, name))) for name in names)

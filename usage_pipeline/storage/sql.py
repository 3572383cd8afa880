"""Reads the queries of the `sql/` folder by name, and builds those queries that share parts.

A `{part}` in a file stands for what differs between the uses of the file: a table, a list of columns, or a fragment. A
fragment is a file of `sql/`, too, written once for all queries that use it. Values are parameters (`%(value)s`), never text.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from psycopg import sql as compose


def sql_folder() -> Path:
    """The folder of the SQL files: inside the package in a wheel, beside the package in a checkout."""
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
    """The query or fragment `sql/<name>.sql`, with each `{part}` in it replaced. It ignores parts that the file does not name.

    Raises FileNotFoundError if there is no such file, and KeyError if the file names a part that is not given.
    """
    return compose.SQL(load(name)).format(**parts)


def relation(name: str) -> compose.Identifier:
    """The table or view with this name, `schema.name`."""
    return compose.Identifier(*name.split("."))


def column_list(names: Iterable[str], of: str | None = None) -> compose.Composed:
    """These columns with commas between them. With `of`, each is a column of that table or alias."""
    return compose.SQL(", ").join(compose.Identifier(*filter(None, (of, name))) for name in names)

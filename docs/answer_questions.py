"""Answers the questions of docs/analysts.md anew, as the role usage_analyst, from the database of DATABASE_URL.

uv run python docs/answer_questions.py
"""

import re
from pathlib import Path

import psycopg

from usage_pipeline.settings import load_settings
from usage_pipeline.storage.postgres import connect
from usage_pipeline.storage.roles.analyst import ANALYST_ROLE
from usage_pipeline.storage.sql import load

PAGE = Path(__file__).parent / "analysts.md"
# What stands between is written by this script; the name is that of a file in sql/reporting.
_ANSWER = re.compile(r"(<!-- answer: (?P<name>\w+) -->\n).*?(<!-- end of answer -->)", re.DOTALL)


def main() -> None:
    """Rewrites the page with the questions, their queries and their answers of now."""
    with connect(load_settings()) as connection:
        connection.execute(f"set role {ANALYST_ROLE}")
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(_ANSWER.sub(lambda found: _answered(connection, found), text), encoding="utf-8")


def _answered(connection: psycopg.Connection, found: re.Match[str]) -> str:
    name = found["name"]
    question, query = load(f"reporting/{name}").removeprefix("-- ").split("\n", 1)
    cursor = connection.execute(query)
    lines = [[column.name for column in cursor.description or ()], *cursor.fetchall()]
    # Numbers stand at the right, as far as the first row that has one says so.
    is_number = [
        any(isinstance(row[at], (int, float)) or hasattr(row[at], "as_tuple") for row in lines[1:])
        for at in range(len(lines[0]))
    ]
    rows = [f"| {' | '.join(_cell(value) for value in line)} |" for line in lines]
    rule = f"|{'|'.join('---:' if number else '---' for number in is_number)}|"
    answer = "\n".join([rows[0], rule, *rows[1:]])
    return f"{found[1]}**{question}**\n\n```sql\n{query.strip()}\n```\n\n{answer}\n{found[3]}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


if __name__ == "__main__":
    main()

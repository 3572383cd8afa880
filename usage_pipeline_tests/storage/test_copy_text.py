"""COPY text: what goes in comes out of PostgreSQL again."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from usage_pipeline.storage.copy_text import Field, copy_line

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.text("\\\t\n\r.N")
ROWS = st.tuples(
    st.none() | TEXTS,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.binary(),
    st.none() | st.uuids(),
    st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)


@settings(max_examples=50)
@given(st.lists(ROWS))
def test_a_row_comes_back_as_it_went_in(
    postgres: psycopg.Connection, rows: list[tuple[str | None, int | None, bytes | None, UUID | None, datetime | None]]
) -> None:
    with postgres.transaction(force_rollback=True), postgres.cursor() as cursor:
        cursor.execute("create temporary table copied (a text, b bigint, c bytea, d uuid, e bigint)")
        with cursor.copy("copy copied from stdin (encoding 'utf8')") as copy:
            for row in rows:
                fields: tuple[Field, ...] = row
                copy.write(copy_line(fields) + b"\n")
        came = cursor.execute("select * from copied").fetchall()
    assert came == [(*row[:4], row[4] and (row[4] - EPOCH) // timedelta(microseconds=1)) for row in rows]

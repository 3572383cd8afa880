"""How much of the roll-ups a question may read: what takes longer is refused at once, with what is smaller."""

import psycopg
from psycopg import sql as compose

from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.sources import Source
from usage_pipeline.rollups.window_tables import GROUP
from usage_pipeline.storage.sql import composed, relation

# About a second on two cores: rows of users or keys, and bytes of latencies as they are stored.
MAX_ROWS_READ = 3_000_000
MAX_LATENCY_BYTES = 8_000_000


class TooMuchToRead(Exception):
    """The message says how much it would be, and what to ask instead."""


def expect_readable(connection: psycopg.Connection, question: Question) -> None:
    """Raises TooMuchToRead. The numbers of rows are estimates."""
    plan = question.plan
    spans = [question.days, *([question.compared_days] if question.compared_days else [])]
    days = sum(span.count for span in spans)
    for source in {plan.sums, plan.users}:
        if source is not None and source.time == "usage_date":
            rows_a_day = _rows_a_day(connection, source)
            if (rows := rows_a_day * days) > MAX_ROWS_READ:
                raise TooMuchToRead(
                    f"expected a question that reads at most {MAX_ROWS_READ:,} rows, came one of about {rows:,.0f} of "
                    f"{source.table}: ask for at most {_fewer(question, MAX_ROWS_READ / rows)} days"
                    + ("" if source is plan.sums else ", or without distinct_users")
                )
    if plan.latencies is not None:
        size = sum(_latency_bytes(connection, plan.latencies, span) for span in spans)
        if size > MAX_LATENCY_BYTES:
            raise TooMuchToRead(
                f"expected a question that reads at most {MAX_LATENCY_BYTES:,} bytes of latencies, came one of {size:,}: ask "
                f"for at most {_fewer(question, MAX_LATENCY_BYTES / size)} days, without percentiles, or with no more than one "
                f"of {', '.join(GROUP)} in groups and filters"
            )


def _fewer(question: Question, share: float) -> int:
    return max(1, int(question.days.count * share))


def _rows_a_day(connection: psycopg.Connection, source: Source) -> float:
    query = composed("explore/estimate_rows", source=relation(source.table))
    [(rows,)] = connection.execute(query, {"table": source.table}).fetchall()
    return float(rows)


def _latency_bytes(connection: psycopg.Connection, source: Source, span: Days) -> int:
    only = compose.SQL(" and {}").format(compose.SQL(source.only)) if source.only else compose.SQL("")
    query = composed("explore/measure_latencies", source=relation(source.table), only=only)
    [(size,)] = connection.execute(query, {"first": span.first, "until": span.until}).fetchall()
    return int(size)

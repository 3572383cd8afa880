"""How much of the roll-ups a question may read: what takes longer is refused at once, with what is smaller."""

import psycopg
from psycopg import sql as compose

from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.sources import Source
from usage_pipeline.rollups.window_tables import GROUP
from usage_pipeline.storage.sql import composed, relation
from usage_pipeline.texts import counted

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
        if source is not None:
            rows = _rows_a_day(connection, source) * days
            if rows > MAX_ROWS_READ:
                others = [] if source is plan.sums else ["without distinct_users"]
                came = f"at most {MAX_ROWS_READ:,} rows, came one of about {rows:,.0f} of {source.table}"
                raise TooMuchToRead(_refusal(question, came, MAX_ROWS_READ / rows, others))
    if plan.latencies is not None:
        size = sum(_latency_bytes(connection, plan.latencies, span) for span in spans)
        if size > MAX_LATENCY_BYTES:
            others = ["without percentiles", f"with no more than one of {', '.join(GROUP)} in groups and filters"]
            came = f"at most {MAX_LATENCY_BYTES:,} bytes of latencies, came one of {size:,}"
            raise TooMuchToRead(_refusal(question, came, MAX_LATENCY_BYTES / size, others))


def _refusal(question: Question, came: str, share: float, others: list[str]) -> str:
    """What was expected and came, and what is smaller. `share` of the question's days would do."""
    if question.within:
        # How much all others use is not for the eyes of a bound token.
        return f"expected a question that reads less: ask {' or '.join(['for fewer days', *others])}"
    days = int(question.days.count * share)
    smaller = [*([f"for at most {counted(days, 'day')}"] if days else []), *others]
    return f"expected a question that reads {came}: ask {' or '.join(smaller or ['for another grouping'])}"


def _rows_a_day(connection: psycopg.Connection, source: Source) -> float:
    query = composed("explore/estimate_rows", source=relation(source.table), time=compose.Identifier(source.time))
    [(rows,)] = connection.execute(query, {"table": source.table}).fetchall()
    return float(rows)


def _latency_bytes(connection: psycopg.Connection, source: Source, span: Days) -> int:
    only = compose.SQL(" and {}").format(compose.SQL(source.only)) if source.only else compose.SQL("")
    query = composed("explore/measure_latencies", source=relation(source.table), only=only)
    [(size,)] = connection.execute(query, {"first": span.first, "until": span.until}).fetchall()
    return int(size)

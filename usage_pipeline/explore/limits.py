"""How much of the roll-ups a question may read: what takes longer is refused at once, with what is smaller."""

from collections.abc import Mapping

import psycopg
from psycopg import sql as compose

from usage_pipeline.explore.questions import Days, Question
from usage_pipeline.explore.sources import Grain, Source
from usage_pipeline.rollups.window_tables import GROUP
from usage_pipeline.storage.sql import composed, relation
from usage_pipeline.texts import counted

# As benchmarks/explore.py has measured it: what is allowed is answered in about two seconds on two cores. A row of a wide table
# costs more than another, and a row that becomes one of the answer more than one that is only added.
MAX_ROWS_READ = 4_000_000
_WIDE = frozenset({"usage_user_daily", "usage_hourly"})
_COST_OF_A_WIDE_ROW, _COST_OF_A_GROUP, _COST_OF_A_GROUP_OF_MANY_NAMES = 3.0, 3.4, 8.0
_FEW_NAMES = 2
_MANY_VALUED = frozenset({"user", "api_key", "tag"})
# Of latencies as they are stored, 4 bytes each. Those of one group and value become one.
MAX_LATENCY_BYTES: Mapping[Grain, int] = {
    "day": 5_000_000,
    "week": 8_000_000,
    "month": 20_000_000,
    "total": 20_000_000,
}


class TooMuchToRead(Exception):
    """The message says how much it would be, and what to ask instead."""


def expect_readable(connection: psycopg.Connection, question: Question) -> None:
    """Raises TooMuchToRead. The numbers of rows are estimates."""
    plan = question.plan
    spans = [question.days, *([question.compared_days] if question.compared_days else [])]
    days = sum(span.count for span in spans)
    for source in {plan.sums, plan.users}:
        if source is not None:
            rows, most = _rows_a_day(connection, source) * days, MAX_ROWS_READ / _cost_of_a_row(source, question)
            if rows > most:
                others = [] if source is plan.sums else ["without distinct_users"]
                came = f"at most {most:,.0f} rows, came one of about {rows:,.0f} of {source.table}"
                raise TooMuchToRead(_refusal(question, came, most / rows, others))
    if plan.latencies is not None:
        size = sum(_latency_bytes(connection, plan.latencies, span) for span in spans)
        if size > (most := MAX_LATENCY_BYTES[question.grain]):
            others = ["without percentiles", f"with no more than one of {', '.join(GROUP)} in groups and filters"]
            came = f"at most {most:,} bytes of latencies, came one of {size:,}"
            raise TooMuchToRead(_refusal(question, came, most / size, others))


def _cost_of_a_row(source: Source, question: Question) -> float:
    cost = _COST_OF_A_WIDE_ROW if source.name in _WIDE else 1.0
    groups = {dimension.family for dimension in question.group_by}
    is_group = question.grain not in ("month", "total") and source is question.plan.sums
    if not is_group or not (groups >= source.families or groups & _MANY_VALUED):
        return cost
    return cost + (_COST_OF_A_GROUP if len(question.group_by) <= _FEW_NAMES else _COST_OF_A_GROUP_OF_MANY_NAMES)


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

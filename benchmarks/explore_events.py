"""Events for benchmarks.explore: 180 days, 8 teams, 20,000 users, written by the server itself and rolled up day by day."""

from collections.abc import Callable
from datetime import date, timedelta

import psycopg

from usage_pipeline.rollups.calendar import day_window
from usage_pipeline.rollups.windows import replace_window
from usage_pipeline.settings import Settings
from usage_pipeline.storage.chunks.partitions import ensure_chunks

FIRST_DAY = date(2026, 5, 1)
DAYS = 180
EVENTS = 20_000_000
# A user belongs to a team, and a few are far busier than the rest. Prompts are left out: no question here reads one.
_WRITE = """
insert into analytics.usage_events (
    event_id, event_time, user_id, team, service, provider, model, api_key_id, input_tokens, output_tokens, total_tokens,
    cache_read_tokens, latency_ms, status_code, error_type
)
select
    gen_random_uuid(),
    %(start)s::timestamptz + number * interval '1 day' / %(events)s,
    'user-' || person,
    'team-' || person %% 8,
    'service-' || (person + number) %% 3,
    (array['openai', 'anthropic', 'google'])[1 + drawn %% 3],
    (array[
        'gpt-4o', 'claude-sonnet-4-5', 'gemini-2.5-flash', 'gpt-4o-mini', 'claude-haiku-4-5', 'gemini-2.5-pro', 'gpt-4.1',
        'claude-opus-4-1', 'gemini-2.0-flash'
    ])[1 + drawn],
    'key-' || person %% 200,
    input_tokens,
    output_tokens,
    input_tokens + output_tokens,
    case when drawn %% 2 = 0 then input_tokens / 2 end,
    exp(6.5 + 0.8 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()))::int,
    case when fails then 429 else 200 end,
    case when fails then (array['rate_limit', 'timeout', 'overloaded'])[1 + drawn %% 3] end
from (
    select
        number,
        (%(users)s * power(random(), 1.7))::int as person,
        (random() * 8)::int as drawn,
        (random() * 4000)::int as input_tokens,
        (random() * 800)::int as output_tokens,
        random() < 0.02 as fails
    from generate_series(0, %(events)s::integer - 1) as number
) as drawn
"""


def write_events(
    connection: psycopg.Connection, settings: Settings, days: int, users: int, say: Callable[[str], None]
) -> None:
    """Writes so many days and rolls each up; their hours are left out."""
    windows = [day_window(FIRST_DAY + timedelta(days=number), settings.timezone) for number in range(days)]
    starts = [window.first for window in windows]
    ensure_chunks(connection, "analytics.usage_events", starts, settings.chunk_time_interval_hours)
    connection.execute("select setseed(0.5)")
    for number, window in enumerate(windows, start=1):
        connection.execute(_WRITE, {"start": window.first, "events": EVENTS // DAYS, "users": users})
        replace_window(connection, window, settings=settings)
        if number % 20 == 0:
            say(f"{number} of {days} days")
    connection.execute("vacuum analyze")

-- Hours and days that are rolled up and only partly in a span that is to be dropped. `is_last`: nothing else is left of the window,
-- neither in the table nor in a file, and the rest of it was dropped before: what is stored of it will be all there is.
with edge as (
    select 'day' as grain, day_start as first_moment, day_end as end_moment, usage_date, price_version
    from analytics.day_prices
    where day_start < %(end)s
      and day_end > %(start)s
      and not (day_start >= %(start)s and day_end <= %(end)s)
    union all
    select
        'hour',
        rolled.window_start,
        rolled.window_start + interval '1 hour',
        null,
        day_prices.price_version
    from ops.rolled_windows as rolled
    join analytics.day_prices
        on day_prices.day_start <= rolled.window_start
        and day_prices.day_end > rolled.window_start
    where rolled.grain = 'hour'
      and rolled.window_start < %(end)s
      and rolled.window_start > %(start)s - interval '1 hour'
      and not (rolled.window_start >= %(start)s and rolled.window_start + interval '1 hour' <= %(end)s)
)
select
    edge.grain,
    edge.first_moment,
    edge.end_moment,
    edge.usage_date,
    edge.price_version,
    (
        select range_agg(tstzrange(span_start, span_end)) @> tstzrange(edge.first_moment, edge.end_moment)
        from (
            select span_start, span_end
            from ops.dropped_spans
            where table_name = 'analytics.usage_events'
              and returned_at is null
            union all
            select %(start)s::timestamptz, %(end)s::timestamptz
        ) as spans
    )
    and not ops.is_only_in_file('analytics.usage_events', edge.first_moment, least(edge.end_moment, %(start)s))
    and not ops.is_only_in_file('analytics.usage_events', greatest(edge.first_moment, %(end)s), edge.end_moment)
    and not exists (
        select 1
        from analytics.usage_events
        where event_time >= edge.first_moment
          and event_time < edge.end_moment
          and not (event_time >= %(start)s and event_time < %(end)s)
    ) as is_last
from edge
order by edge.first_moment, edge.grain;

-- Times of which analytics.usage_hourly has hours, and neither a partition nor a file holds events, or those that came late are fewer.
with chunk as (
    {chunks}
),
file as (
    select chunk_start, chunk_end
    from ops.archives
    where table_name = 'analytics.usage_events'
      and restored_at is null
      and deleted_at is null
),
held as (
    select chunk_start, chunk_end from chunk
    union all
    select chunk_start, chunk_end from file
),
stored as (
    select hour_start, sum(requests) as requests
    from analytics.usage_hourly
    group by hour_start
),
-- Between what is held there is nothing, so that whatever was stored of such a time is all that is left of it.
gap as (
    select
        coalesce(
            (select max(chunk_end) from held where held.chunk_end <= stored.hour_start),
            (select min(hour_start) - interval '2 days' from stored)
        ) as span_start,
        coalesce(
            (select min(chunk_start) from held where held.chunk_start >= stored.hour_start + interval '1 hour'),
            (select max(hour_start) + interval '2 days' from stored)
        ) as span_end
    from stored
    where not exists (
        select 1
        from held
        where held.chunk_start < stored.hour_start + interval '1 hour'
          and held.chunk_end > stored.hour_start
    )
),
-- Late events made a partition anew, and their hours are not rolled up yet. Where one was, its hour may be replaced already, and
-- what is stored of it and its events are the same: such a partition gets no mark, which would count them twice.
late as (
    select chunk.chunk_start, chunk.chunk_end
    from chunk
    where exists (
        select 1
        from ops.touched_windows
        where grain = 'hour'
          and window_start >= chunk.chunk_start
          and window_start < chunk.chunk_end
    )
      and not exists (
        select 1
        from file
        where file.chunk_start < chunk.chunk_end
          and file.chunk_end > chunk.chunk_start
    )
),
refilled as (
    select late.chunk_start as span_start, late.chunk_end as span_end
    from late
    join stored
        on stored.hour_start >= late.chunk_start
        and stored.hour_start + interval '1 hour' <= late.chunk_end
    cross join lateral (
        select count(*) as events
        from analytics.usage_events
        where event_time >= stored.hour_start
          and event_time < stored.hour_start + interval '1 hour'
    ) as live
    group by late.chunk_start, late.chunk_end
    having bool_or(stored.requests > live.events)
       and not bool_or(live.events > 0 and stored.requests <= live.events)
)
insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept)
select distinct
    'analytics.usage_events',
    span_start,
    span_end,
    'found: its hours are stored, and its events are gone',
    false
from (select * from gap union all select * from refilled) as found;

-- Where the events of an hour or day are: in an archive file alone, dropped, in the table; and whether what was dropped is kept aside.
with dropped as (
    select
        range_agg(tstzrange(span_start, span_end)) as spans,
        bool_and(edges_kept) as edges_kept
    from ops.dropped_spans
    where table_name = 'analytics.usage_events'
      and returned_at is null
      and span_start < %(until)s
      and span_end > %(first)s
)
select
    ops.is_only_in_file('analytics.usage_events', %(first)s, %(until)s) as is_in_file,
    spans is not null as is_dropped,
    coalesce(spans @> tstzrange(%(first)s, %(until)s), false) as is_wholly_dropped,
    coalesce(edges_kept, true) as edges_kept,
    exists (
        select 1
        from ops.kept_windows
        where grain = %(grain)s
          and first_moment = %(first)s
    ) as is_kept,
    (
        select count(*)
        from analytics.usage_events
        where event_time >= %(first)s
          and event_time < %(until)s
          -- Counted only where it decides something: a day has millions.
          and (spans is not null or %(counts_events)s)
    ) as events,
    exists (
        select 1
        from analytics.usage_events
        where event_time >= %(first)s
          and event_time < %(until)s
    ) as has_events
from dropped;

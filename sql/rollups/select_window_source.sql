-- Whether events of that time are only in an archive, and whether any are in the table.
select
    analytics.is_only_archived(%(first)s, %(until)s) as is_archived,
    exists (
        select 1
        from analytics.usage_events
        where event_time >= %(first)s
          and event_time < %(until)s
    ) as has_events;

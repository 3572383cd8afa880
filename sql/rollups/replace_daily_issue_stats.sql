-- Replaces days of stats.daily_issue_stats that follow each other; rows that are right already stay untouched. With what was stored
-- before, and whether that was made after the end of its day.
with
{counted},
changed as (
    -- Only what differs is inserted, so that a re-run uses up no ids.
    insert into stats.daily_issue_stats as t (date, created_count, resolved_count, comment_count)
    select
        source.date,
        source.created_count,
        source.resolved_count,
        source.comment_count
    from source
    left join stats.daily_issue_stats as stored using (date)
    where (stored.created_count, stored.resolved_count, stored.comment_count)
        is distinct from (source.created_count, source.resolved_count, source.comment_count)
    order by source.date
    on conflict (date) do update
    set created_count = excluded.created_count,
        resolved_count = excluded.resolved_count,
        comment_count = excluded.comment_count,
        updated_at = now()
    returning date
)
select
    source.date,
    source.created_count,
    source.resolved_count,
    source.comment_count,
    changed.date is not null as is_changed,
    array[stored.created_count, stored.resolved_count, stored.comment_count] as before,
    coalesce(coalesce(made.made_at, stored.updated_at) >= (%(ends)s::timestamptz[])[source.position], false) as was_closed
from source
left join changed using (date)
left join stats.daily_issue_stats as stored on stored.date = source.date
left join ops.made_dates as made
    on made.table_name = 'stats.daily_issue_stats'
    and made.date = source.date
order by source.date;

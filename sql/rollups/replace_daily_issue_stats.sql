-- Replaces days of stats.daily_issue_stats that follow each other; rows that are right already stay untouched. Each moment is
-- looked up among the first moments of the days, so years take one pass over what lies in them.
with day as (
    select date, position
    from unnest(%(dates)s::date[]) with ordinality as one (date, position)
),
created as (
    select width_bucket(created_at, %(firsts)s::timestamptz[]) as position, count(*) as issues
    from app.issues
    where created_at >= %(first)s
      and created_at < %(until)s
    group by 1
),
resolved as (
    select width_bucket(resolved_at, %(firsts)s::timestamptz[]) as position, count(*) as issues
    from app.issues
    where resolved_at >= %(first)s
      and resolved_at < %(until)s
    group by 1
),
written as (
    select width_bucket(created_at, %(firsts)s::timestamptz[]) as position, count(*) as comments
    from app.comments
    where created_at >= %(first)s
      and created_at < %(until)s
    group by 1
),
source as (
    select
        day.date,
        coalesce(created.issues, 0) as created_count,
        coalesce(resolved.issues, 0) as resolved_count,
        coalesce(written.comments, 0) as comment_count
    from day
    left join created using (position)
    left join resolved using (position)
    left join written using (position)
),
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
    changed.date is not null as is_changed
from source
left join changed using (date)
order by source.date;

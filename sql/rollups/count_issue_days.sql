-- The counts of days that follow each other, as the parts of a query that ends with `source`. Each moment is looked up among the first
-- moments of the days, so years take one pass over what lies in them.
day as (
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
    select position, count(*) as issues
    from (
        select width_bucket(resolved_at, %(firsts)s::timestamptz[]) as position, reopened_at
        from app.issue_resolutions
        where resolved_at >= %(first)s
          and resolved_at < %(until)s
    ) as resolution
    -- At most one resolution of an issue lasts to the end of a day.
    where coalesce(reopened_at >= (%(ends)s::timestamptz[])[position], true)
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
        day.position,
        coalesce(created.issues, 0) as created_count,
        coalesce(resolved.issues, 0) as resolved_count,
        coalesce(written.comments, 0) as comment_count
    from day
    left join created using (position)
    left join resolved using (position)
    left join written using (position)
)

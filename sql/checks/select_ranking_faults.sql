-- Dates of {table} with a gap in their ranks or a score above the one before it, and those that are over and do not have as many
-- rows as there are candidates, up to the most.
with ranking_window as (
    select ranking_date, first_day, first, until
    from unnest(%(dates)s::date[], %(first_days)s::date[], %(firsts)s::timestamptz[], %(untils)s::timestamptz[])
        as one (ranking_date, first_day, first, until)
),
entry as (
    select ranking_date, rank, score, lag(score) over (partition by ranking_date order by rank) as score_before
    from {table}
    where ranking_date = any(%(dates)s::date[])
),
stored as (
    select
        ranking_date,
        count(*) as rows,
        max(rank) as last_rank,
        bool_or(score > score_before) as rises
    from entry
    group by ranking_date
)
select
    ranking_window.ranking_date,
    coalesce(stored.rows, 0) as rows,
    coalesce(stored.last_rank, 0) as last_rank,
    coalesce(stored.rises, false) as rises,
    expected.rows as expected_rows
from ranking_window
left join stored using (ranking_date)
cross join lateral (
    select count(*) as rows
    from (
        select 1
        from (
            {candidates}
        ) as candidate
        limit %(most)s
    ) as counted
) as expected
where stored.rows is distinct from stored.last_rank
   or stored.rises
   or (ranking_window.until <= %(now)s and coalesce(stored.rows, 0) <> expected.rows)
order by ranking_window.ranking_date;

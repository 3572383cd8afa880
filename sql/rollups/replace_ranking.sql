-- Replaces the ranking of some dates in {table} by the best candidates of their windows; rows that are right stay untouched.
with ranking_window as (
    select ranking_date, first_day, first, until
    from unnest(%(dates)s::date[], %(first_days)s::date[], %(firsts)s::timestamptz[], %(untils)s::timestamptz[])
        as one (ranking_date, first_day, first, until)
),
source as (
    select ranking_window.ranking_date, best.*
    from ranking_window
    cross join lateral (
        select
            row_number() over (order by {order}) as rank,
            id,
            title,
            score,
            {parts}
        from (
            select candidate.*, analytics.capped({score}) as score
            from (
                {candidates}
            ) as candidate
        ) as scored
        order by rank
        limit %(most)s
    ) as best
),
gone as (
    delete from {table} as t
    using ranking_window
    where t.ranking_date = ranking_window.ranking_date
      and not exists (
        select 1
        from source
        where source.ranking_date = t.ranking_date
          and source.rank = t.rank
      )
    returning t.ranking_date
),
stored as (
    insert into {table} as t (ranking_date, rank, id, title, score, {parts})
    select ranking_date, rank, id, title, score, {parts}
    from source
    on conflict (ranking_date, rank) do update
    set id = excluded.id,
        title = excluded.title,
        score = excluded.score,
        ({parts}) = row({excluded})
    where (t.id, t.title, t.score, {stored})
        is distinct from (excluded.id, excluded.title, excluded.score, {excluded})
    returning t.ranking_date
),
changed as (
    select ranking_date, count(*) as rows
    from (
        select ranking_date from gone
        union all
        select ranking_date from stored
    ) as one
    group by ranking_date
),
ranked as (
    select ranking_date, count(*) as rows
    from source
    group by ranking_date
)
select
    ranking_date,
    coalesce(ranked.rows, 0) as rows,
    coalesce(changed.rows, 0) as changed_rows
from ranking_window
left join ranked using (ranking_date)
left join changed using (ranking_date)
order by ranking_date;

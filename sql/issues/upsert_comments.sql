-- Stores the comments of the staged issues, spread evenly: see usage_pipeline/issues/load.py. Right ones stay untouched.
with source as (
    select
        staged.id || '-' || k as id,
        staged.id as issue_id,
        timestamptz 'epoch' + interval '1 microsecond' * (
            staged.created_us + div((staged.updated_us - staged.created_us)::numeric * k, staged.comments + 1)::bigint
        ) as created_at
    from staged_issue as staged
    cross join generate_series(1, staged.comments) as k
),
changed as (
    select
        source.id,
        source.issue_id,
        source.created_at,
        stored.id is null as is_new
    from source
    left join app.comments as stored on stored.id = source.id
    where stored.created_at is distinct from source.created_at
),
written as (
    insert into app.comments (id, issue_id, created_at)
    select id, issue_id, created_at
    from changed
    order by id
    on conflict (id) do update
    set created_at = excluded.created_at
    where comments.issue_id = excluded.issue_id
    returning id
)
select
    count(*) filter (where is_new) as new,
    count(*) filter (where not is_new) as changed
from written
join changed using (id);

-- Stores the staged issues; right ones stay untouched. Without a title in the file, a stored one stays and a new one is made up.
with source as (
    select
        staged.id,
        coalesce(staged.title, stored.title, 'Issue ' || staged.id) as title,
        staged.status,
        staged.view_count,
        timestamptz 'epoch' + staged.created_us * interval '1 microsecond' as created_at,
        timestamptz 'epoch' + staged.updated_us * interval '1 microsecond' as updated_at,
        timestamptz 'epoch' + staged.resolved_us * interval '1 microsecond' as resolved_at,
        stored.id is null as is_new
    from staged_issue as staged
    left join app.issues as stored on stored.id = staged.id
),
written as (
    insert into app.issues as t (id, title, status, view_count, created_at, updated_at, resolved_at)
    select id, title, status, view_count, created_at, updated_at, resolved_at
    from source
    order by id
    on conflict (id) do update
    set title = excluded.title,
        status = excluded.status,
        view_count = excluded.view_count,
        created_at = excluded.created_at,
        updated_at = excluded.updated_at,
        resolved_at = excluded.resolved_at
    where (t.title, t.status, t.view_count, t.created_at, t.updated_at, t.resolved_at)
        is distinct from (
            excluded.title, excluded.status, excluded.view_count, excluded.created_at, excluded.updated_at,
            excluded.resolved_at
        )
    returning id
)
select
    count(*) filter (where is_new) as new,
    count(*) filter (where not is_new) as changed
from written
join source using (id);

-- Stores the staged issues; right ones stay untouched. Without a title or views in the file, stored ones
-- stay, and a new issue gets a title that is made up and no views.
with source as (
    select
        staged.id,
        staged.number,
        coalesce(staged.title, stored.title, 'Issue ' || staged.id) as title,
        staged.status,
        coalesce(staged.view_count, stored.view_count, 0) as view_count,
        timestamptz 'epoch' + staged.created_us * interval '1 microsecond' as created_at,
        timestamptz 'epoch' + staged.updated_us * interval '1 microsecond' as updated_at,
        timestamptz 'epoch' + staged.resolved_us * interval '1 microsecond' as resolved_at,
        stored.id is null as is_new
    from staged_issue as staged
    left join app.issues as stored on stored.id = staged.id
),
written as (
    insert into app.issues as t (
        id, title, status, view_count, created_at, updated_at, resolved_at, loaded_project, loaded_number
    )
    select id, title, status, view_count, created_at, updated_at, resolved_at, %(project)s, number
    from source
    order by id
    on conflict (id) do update
    set title = excluded.title,
        status = excluded.status,
        view_count = excluded.view_count,
        created_at = excluded.created_at,
        updated_at = excluded.updated_at,
        resolved_at = excluded.resolved_at,
        loaded_project = excluded.loaded_project
    where (t.title, t.status, t.view_count, t.created_at, t.updated_at, t.resolved_at, t.loaded_project)
        is distinct from (
            excluded.title, excluded.status, excluded.view_count, excluded.created_at, excluded.updated_at,
            excluded.resolved_at, excluded.loaded_project
        )
    returning id
)
select
    count(*) filter (where is_new) as new,
    count(*) filter (where not is_new) as changed
from written
join source using (id);

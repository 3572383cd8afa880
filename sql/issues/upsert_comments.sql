-- Stores the comments of the staged issues, spread evenly: see usage_pipeline/issues/load.py. Right ones stay untouched. A comment is
-- known by its issue and number; it gets another id than <issue>-<number> if somebody has that.
with source as (
    select
        staged.id as issue_id,
        k as number,
        staged.id || '-' || k as id,
        timestamptz 'epoch' + interval '1 microsecond' * (
            staged.created_us + div((staged.updated_us - staged.created_us)::numeric * k, staged.comments + 1)::bigint
        ) as created_at
    from staged_issue as staged
    cross join generate_series(1, staged.comments) as k
),
changed as (
    select
        source.issue_id,
        source.number,
        source.id,
        source.created_at,
        stored.id is null as is_new
    from source
    left join app.comments as stored
        on stored.issue_id = source.issue_id
        and stored.loaded_number = source.number
    where stored.created_at is distinct from source.created_at
),
moved as (
    update app.comments as t
    set created_at = changed.created_at
    from changed
    where t.issue_id = changed.issue_id
      and t.loaded_number = changed.number
      and not changed.is_new
    returning t.id
),
added as (
    insert into app.comments (id, issue_id, created_at, loaded_number)
    select
        case when taken.id is null then changed.id else changed.id || '~' || gen_random_uuid() end,
        changed.issue_id,
        changed.created_at,
        changed.number
    from changed
    left join app.comments as taken on taken.id = changed.id
    where changed.is_new
    order by changed.id
    returning id
)
select
    (select count(*) from added) as new,
    (select count(*) from moved) as changed;

-- Replaces one day of usage.token_daily by the sums of raw.token_deltas; rows that are right already stay untouched.
with source as (
    select
        token_id,
        sum(usage_count)::bigint as usage_count,
        max(last_used_at) as last_used_at
    from raw.token_deltas
    where usage_date = %(usage_date)s
    group by token_id
),
gone as (
    delete from usage.token_daily as t
    where usage_date = %(usage_date)s
      and not exists (select 1 from source where source.token_id = t.token_id)
    returning 1
),
stored as (
    insert into usage.token_daily as t (usage_date, token_id, usage_count, last_used_at)
    select
        %(usage_date)s,
        token_id,
        usage_count,
        last_used_at
    from source
    on conflict (usage_date, token_id) do update
    set usage_count = excluded.usage_count,
        last_used_at = excluded.last_used_at,
        updated_at = now()
    where (t.usage_count, t.last_used_at)
        is distinct from (excluded.usage_count, excluded.last_used_at)
    returning 1
)
select
    (select count(*) from source) as rows,
    (select count(*) from stored) + (select count(*) from gone) as changed_rows;

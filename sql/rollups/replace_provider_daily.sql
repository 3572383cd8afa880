-- Replaces one day of usage.provider_daily by the sums of raw.provider_deltas; rows that are right already stay untouched.
with source as (
    select
        api_key_id,
        provider,
        sum(upload_count)::bigint as upload_count,
        sum(total_file_size)::bigint as total_file_size,
        max(last_used_at) as last_used_at
    from raw.provider_deltas
    where usage_date = %(usage_date)s
    group by api_key_id, provider
),
gone as (
    delete from usage.provider_daily as t
    where usage_date = %(usage_date)s
      and not exists (select 1 from source where source.api_key_id = t.api_key_id and source.provider = t.provider)
    returning 1
),
stored as (
    insert into usage.provider_daily as t (usage_date, api_key_id, provider, upload_count, total_file_size, last_used_at)
    select
        %(usage_date)s,
        api_key_id,
        provider,
        upload_count,
        total_file_size,
        last_used_at
    from source
    on conflict (usage_date, api_key_id, provider) do update
    set upload_count = excluded.upload_count,
        total_file_size = excluded.total_file_size,
        last_used_at = excluded.last_used_at,
        updated_at = now()
    where (t.upload_count, t.total_file_size, t.last_used_at)
        is distinct from (excluded.upload_count, excluded.total_file_size, excluded.last_used_at)
    returning 1
)
select
    (select count(*) from source) as rows,
    (select count(*) from stored) + (select count(*) from gone) as changed_rows;

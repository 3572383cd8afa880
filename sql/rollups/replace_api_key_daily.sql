-- Replaces one day of usage.api_key_daily by the sums of raw.api_key_deltas; rows that are right already stay untouched.
with source as (
    select
        api_key_id,
        sum(total_requests)::bigint as total_requests,
        sum(successful_requests)::bigint as successful_requests,
        sum(failed_requests)::bigint as failed_requests,
        sum(total_file_size)::bigint as total_file_size,
        sum(total_files_uploaded)::bigint as total_files_uploaded,
        max(last_used_at) as last_used_at
    from raw.api_key_deltas
    where usage_date = %(usage_date)s
    group by api_key_id
),
gone as (
    delete from usage.api_key_daily as t
    where usage_date = %(usage_date)s
      and not exists (select 1 from source where source.api_key_id = t.api_key_id)
    returning 1
),
stored as (
    insert into usage.api_key_daily as t (usage_date, api_key_id, total_requests, successful_requests, failed_requests, total_file_size, total_files_uploaded, last_used_at)
    select
        %(usage_date)s,
        api_key_id,
        total_requests,
        successful_requests,
        failed_requests,
        total_file_size,
        total_files_uploaded,
        last_used_at
    from source
    on conflict (usage_date, api_key_id) do update
    set total_requests = excluded.total_requests,
        successful_requests = excluded.successful_requests,
        failed_requests = excluded.failed_requests,
        total_file_size = excluded.total_file_size,
        total_files_uploaded = excluded.total_files_uploaded,
        last_used_at = excluded.last_used_at,
        updated_at = now()
    where (t.total_requests, t.successful_requests, t.failed_requests, t.total_file_size, t.total_files_uploaded, t.last_used_at)
        is distinct from (excluded.total_requests, excluded.successful_requests, excluded.failed_requests, excluded.total_file_size, excluded.total_files_uploaded, excluded.last_used_at)
    returning 1
)
select
    (select count(*) from source) as rows,
    (select count(*) from stored) + (select count(*) from gone) as changed_rows;

-- What is stored per family and day. A day that is rolled up is read from its daily table, which outlives raw; of any other day the
-- raw rows count, beside the daily rows where the rest of raw is only in an archive file. One snapshot with the ledger.
with days as (
    select usage_date::date
    from generate_series(%(first_day)s::date, %(last_day)s::date, interval '1 day') as usage_date
),
sources as (
    select
        families.family,
        days.usage_date,
        coalesce(touched.rolled_version >= touched.version, false) as is_rolled,
        exists (
            select 1
            from ops.archives
            where table_name = 'raw.' || families.family || '_deltas'
              and chunk_start = days.usage_date::timestamp at time zone 'UTC'
              and restored_at is null
        ) as is_archived
    from days
    cross join (values ('api_key'), ('provider'), ('token')) as families (family)
    left join ops.touched_days as touched using (family, usage_date)
)
select family, usage_date, sum(amount)::numeric as amount
from (
    select sources.family, usage_date, (
        select sum(total_requests) from raw.api_key_deltas as raw where raw.usage_date = sources.usage_date
    ) as amount
    from sources
    where sources.family = 'api_key'
      and not is_rolled
    union all
    select sources.family, usage_date, (
        select sum(total_requests) from usage.api_key_daily as daily where daily.usage_date = sources.usage_date
    )
    from sources
    where sources.family = 'api_key'
      and (is_rolled or is_archived)
    union all
    select sources.family, usage_date, (
        select sum(upload_count) from raw.provider_deltas as raw where raw.usage_date = sources.usage_date
    )
    from sources
    where sources.family = 'provider'
      and not is_rolled
    union all
    select sources.family, usage_date, (
        select sum(upload_count) from usage.provider_daily as daily where daily.usage_date = sources.usage_date
    )
    from sources
    where sources.family = 'provider'
      and (is_rolled or is_archived)
    union all
    select sources.family, usage_date, (
        select sum(usage_count) from raw.token_deltas as raw where raw.usage_date = sources.usage_date
    )
    from sources
    where sources.family = 'token'
      and not is_rolled
    union all
    select sources.family, usage_date, (
        select sum(usage_count) from usage.token_daily as daily where daily.usage_date = sources.usage_date
    )
    from sources
    where sources.family = 'token'
      and (is_rolled or is_archived)
    union all
    select 'event', usage_date, count(*)
    from raw.request_event_ids
    where usage_date between %(first_day)s and %(last_day)s
    group by usage_date
    union all
    select 'merchant', date, sum(metric_value)
    from usage.merchant_usage
    where date between %(first_day)s and %(last_day)s
    group by date
) as found
where amount is not null
group by family, usage_date
order by family, usage_date;

-- What is stored per family and day. A day that is rolled up is read from its daily table, which outlives raw; of any other day the
-- raw rows count, beside the daily rows where the rest of raw is only in an archive file or was dropped. One snapshot with the ledger.
with days as (
    select usage_date::date
    from generate_series(%(first_day)s::date, %(last_day)s::date, interval '1 day') as usage_date
),
sources as (
    select
        families.family,
        days.usage_date,
        coalesce(touched.rolled_version >= touched.version, false) as is_rolled,
        ops.is_only_in_file('raw.' || families.family || '_deltas', days.usage_date::timestamp at time zone 'UTC', (days.usage_date + 1)::timestamp at time zone 'UTC')
            or ops.is_dropped('raw.' || families.family || '_deltas', days.usage_date::timestamp at time zone 'UTC', (days.usage_date + 1)::timestamp at time zone 'UTC') as is_elsewhere
    from days
    cross join (values ('api_key'), ('provider'), ('token')) as families (family)
    left join ops.touched_days as touched using (family, usage_date)
)
select family, usage_date, sum(amount)::numeric as amount
from (
    {counters}
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

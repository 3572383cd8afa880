-- Makes one day of analytics.usage_error_daily from its events and what is kept of dropped ones; rows that are right already stay untouched.
with each as (
    select
        team,
        service,
        provider,
        model,
        coalesce(error_type, '') as error_type,
        coalesce(status_code, 0) as status_code,
        count(*) as errors
    from analytics.usage_events
    where event_time >= %(first)s
      and event_time < %(until)s
      and analytics.is_error(status_code, error_type)
    group by 1, 2, 3, 4, 5, 6
    union all
    select team, service, provider, model, error_type, status_code, errors
    from analytics.usage_error_daily_kept
    where usage_date = %(window)s
),
source as (
    select team, service, provider, model, error_type, status_code, sum(errors)::bigint as errors
    from each
    group by team, service, provider, model, error_type, status_code
),
{store_source}

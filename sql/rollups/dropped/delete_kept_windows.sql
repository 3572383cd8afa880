-- Windows within a span whose events are all dropped now: what is stored of them is all there is, and nothing is set aside any more.
with whole as (
    delete from ops.kept_windows
    where first_moment >= %(start)s
      and end_moment <= %(end)s
    returning grain, first_moment, usage_date
),
hours as (
    delete from analytics.usage_hourly_kept
    where hour_start in (select first_moment from whole where grain = 'hour')
),
users as (
    delete from analytics.usage_user_daily_kept
    where usage_date in (select usage_date from whole where grain = 'day')
),
tags as (
    delete from analytics.usage_tag_daily_kept
    where usage_date in (select usage_date from whole where grain = 'day')
),
api_keys as (
    delete from analytics.usage_api_key_daily_kept
    where usage_date in (select usage_date from whole where grain = 'day')
),
errors as (
    delete from analytics.usage_error_daily_kept
    where usage_date in (select usage_date from whole where grain = 'day')
)
delete from analytics.usage_latency_daily_kept
where usage_date in (select usage_date from whole where grain = 'day');

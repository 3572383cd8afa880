-- API keys with usage on the days of the `ranking_window` of replace_ranking.sql.
select
    daily.api_key_id as id,
    daily.api_key_id as title,
    analytics.capped(sum(daily.total_requests)) as total_requests,
    analytics.capped(sum(daily.failed_requests)) as failed_requests,
    analytics.capped(sum(daily.total_file_size)) as total_file_size
from usage.api_key_daily as daily
where daily.usage_date >= ranking_window.first_day
  and daily.usage_date <= ranking_window.ranking_date
group by daily.api_key_id

-- Services with usage on the days of the `ranking_window` of replace_ranking.sql.
select
    daily.service as id,
    daily.service as title,
    analytics.capped(sum(daily.requests)) as requests,
    analytics.capped(sum(daily.total_tokens)) as total_tokens
from analytics.usage_daily as daily
where daily.usage_date >= ranking_window.first_day
  and daily.usage_date <= ranking_window.ranking_date
group by daily.service

-- Models with usage on the days of the `ranking_window` of replace_ranking.sql. Models have slashes in their names, so an id
-- must not have another one before the one that ends the provider.
select
    replace(replace(daily.provider, '%%', '%%25'), '/', '%%2F') || '/' || daily.model as id,
    daily.model as title,
    analytics.capped(sum(daily.requests)) as requests,
    analytics.capped(sum(daily.total_tokens)) as total_tokens
from analytics.usage_daily as daily
where daily.usage_date >= ranking_window.first_day
  and daily.usage_date <= ranking_window.ranking_date
group by daily.provider, daily.model

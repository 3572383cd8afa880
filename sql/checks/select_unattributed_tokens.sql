-- Models whose clients told more tokens as their total than as input and output, on these days; most first.
select
    provider,
    model,
    analytics.capped(sum(unattributed_tokens)) as unattributed_tokens,
    analytics.capped(sum(total_tokens)) as total_tokens
from analytics.usage_daily
where usage_date between %(first_day)s and %(last_day)s
  and unattributed_tokens > 0
group by provider, model
order by unattributed_tokens desc, provider, model;

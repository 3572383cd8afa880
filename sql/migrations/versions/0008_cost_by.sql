-- Cost per month and some dimensions: the views by team and by model are this one.
create view {view} as
select
    date_trunc('month', usage_date::timestamp)::date as month_start,
    {dimensions},
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(unpriced_requests)) as unpriced_requests,
    analytics.capped(sum(total_tokens)) as total_tokens,
    trim_scale(sum(cost_usd)) as cost_usd
from analytics.usage_daily
group by month_start, {dimensions};
comment on column {view}.month_start is 'First day of the month';
comment on column {view}.requests is 'Requests, all outcomes';
comment on column {view}.unpriced_requests is 'Requests that are not in cost_usd: no price is known, or the tokens are not split into input and output';
comment on column {view}.total_tokens is 'All tokens, of unpriced requests too';
comment on column {view}.cost_usd is 'US dollars of the requests that have a price; null when none has';

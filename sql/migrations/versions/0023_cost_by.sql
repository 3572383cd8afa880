-- Cost per month and some dimensions: the views by team and by model are this one.
create or replace view {view} as
select
    date_trunc('month', usage_date::timestamp)::date as month_start,
    {dimensions},
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(unpriced_requests)) as unpriced_requests,
    analytics.capped(sum(total_tokens)) as total_tokens,
    trim_scale(sum(cost_usd)) as cost_usd,
    trim_scale(sum(list_cost_usd)) as list_cost_usd,
    trim_scale(sum(reported_cost_usd)) as reported_cost_usd,
    analytics.capped(sum(reported_requests)) as reported_requests,
    analytics.capped(sum(unlisted_requests)) as unlisted_requests
from analytics.usage_daily
group by month_start, {dimensions};
comment on column {view}.unpriced_requests is 'Requests that are not in cost_usd: nobody said what was charged, and no price is known for their model, or their usage is not known';
comment on column {view}.cost_usd is 'US dollars: per request what the sender was charged, or else the list price; null when neither is known of any request';
comment on column {view}.list_cost_usd is 'US dollars by list prices, over all requests; null when no request could be priced';
comment on column {view}.reported_cost_usd is 'US dollars that senders say they were charged; null when none said';
comment on column {view}.reported_requests is 'Requests that are in reported_cost_usd';
comment on column {view}.unlisted_requests is 'Requests that are not in list_cost_usd';

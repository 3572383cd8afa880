-- Usage per day and one dimension: the views by team, by service and by model are this one.
create view {view} as
with per_user as (
    select
        usage_date,
        {dimensions},
        user_id,
        sum(requests) as requests,
        sum(errors) as errors,
        sum(input_tokens) as input_tokens,
        sum(output_tokens) as output_tokens,
        sum(total_tokens) as total_tokens,
        sum(cost_usd) as cost_usd,
        sum(unpriced_requests) as unpriced_requests
    from analytics.usage_user_daily
    group by usage_date, {dimensions}, user_id
)
select
    usage_date,
    {dimensions},
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(errors)) as errors,
    analytics.capped(sum(input_tokens)) as input_tokens,
    analytics.capped(sum(output_tokens)) as output_tokens,
    analytics.capped(sum(total_tokens)) as total_tokens,
    count(*) as distinct_users,
    sum(cost_usd) as cost_usd,
    analytics.capped(sum(unpriced_requests)) as unpriced_requests
from per_user
group by usage_date, {dimensions};
comment on column {view}.usage_date is 'Day in USAGE_TIMEZONE';
comment on column {view}.requests is 'Requests, all outcomes';
comment on column {view}.errors is 'Requests that count as errors (analytics.is_error)';
comment on column {view}.input_tokens is 'Tokens of the prompts, as far as the clients said';
comment on column {view}.output_tokens is 'Generated tokens, as far as the clients said';
comment on column {view}.total_tokens is 'All tokens';
comment on column {view}.distinct_users is 'Users among the requests, each once';
comment on column {view}.cost_usd is 'US dollars by the price version of the day (analytics.day_prices); null when no request could be priced';
comment on column {view}.unpriced_requests is 'Requests that are not in cost_usd: model without a price, or no split into input and output tokens';

-- Groups of one window of {table} whose sums are not those of its days. None while a day changed that is not merged yet.
-- Written apart from rollups/replace_merged_windows.sql, whose sums it checks: a fault in a shared part would not be found.
with merged as (
    select team, service, provider, model, requests, errors, input_tokens, output_tokens, total_tokens, cost_usd, unpriced_requests
    from {table}
    where {window} = %(window)s
),
daily as (
    select
        team,
        service,
        provider,
        model,
        sum(requests)::bigint as requests,
        sum(errors)::bigint as errors,
        analytics.capped(sum(input_tokens)) as input_tokens,
        analytics.capped(sum(output_tokens)) as output_tokens,
        analytics.capped(sum(total_tokens)) as total_tokens,
        sum(cost_usd) as cost_usd,
        sum(unpriced_requests)::bigint as unpriced_requests
    from analytics.usage_daily
    where usage_date >= %(first_day)s
      and usage_date < %(next_day)s
    group by team, service, provider, model
)
select team, service, provider, model, merged.requests, daily.requests
from merged
full join daily using (team, service, provider, model)
where (
    merged.requests, merged.errors, merged.input_tokens, merged.output_tokens, merged.total_tokens, merged.cost_usd,
    merged.unpriced_requests
) is distinct from (
    daily.requests, daily.errors, daily.input_tokens, daily.output_tokens, daily.total_tokens, daily.cost_usd,
    daily.unpriced_requests
)
  and not exists (
    select 1
    from ops.touched_windows
    where grain = %(grain)s
      and window_start = %(window_start)s
  )
order by team, service, provider, model;

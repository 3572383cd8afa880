-- Why the cost of each group changed from the days compared with, in six parts that add up; null where no cost is known.
with models as (
    {usage}
),
pairs as (
    select
        {group},
        provider,
        model,
        array[{counts_before}] as before,
        array[{counts_after}] as after
    from models
),
grouped as (
    select
        pairs.*,
        array[
            sum(before[1]) over groups,
            sum(before[2]) over groups,
            sum(compared[1]) over groups
        ] as group_before,
        array[
            sum(after[1]) over groups,
            sum(after[2]) over groups,
            sum(compared[2]) over groups
        ] as group_after
    from pairs
    cross join lateral analytics.compared_requests(before, after) as compared
    window groups as (partition by {group})
),
summed as (
    select
        {group},
        group_before,
        group_after,
        sum(before[3]) as previous_cost_usd,
        sum(after[3]) as cost_usd,
        sum(part.volume_usd) as volume_usd,
        sum(part.mix_usd) as mix_usd,
        sum(part.tokens_per_request_usd) as tokens_per_request_usd,
        sum(part.cache_usd) as cache_usd,
        sum(part.price_usd) as price_usd,
        sum(part.coverage_usd) as coverage_usd,
        -- No request is known to have cost anything, or nothing.
        group_before[1] > 0 and group_before[2] = 0 as is_unknown_before,
        group_after[1] > 0 and group_after[2] = 0 as is_unknown_after,
        group_before[2] + group_after[2] = 0 and group_before[1] + group_after[1] > 0 as is_unknown
    from grouped
    cross join lateral analytics.cost_change(
        group_before,
        group_after,
        before,
        after,
        analytics.list_prices(provider, model, %(last_before)s)
    ) as part
    group by {group}, group_before, group_after
)
select
    {group},
    case when not is_unknown_before then trim_scale(previous_cost_usd) end as previous_cost_usd,
    case when not is_unknown_after then trim_scale(cost_usd) end as cost_usd,
    case when not is_unknown then trim_scale(cost_usd - previous_cost_usd) end as change_usd,
    case when not is_unknown then trim_scale(volume_usd) end as volume_usd,
    case when not is_unknown then trim_scale(mix_usd) end as mix_usd,
    case when not is_unknown then trim_scale(tokens_per_request_usd) end as tokens_per_request_usd,
    case when not is_unknown then trim_scale(cache_usd) end as cache_usd,
    case when not is_unknown then trim_scale(price_usd) end as price_usd,
    case when not is_unknown then trim_scale(coverage_usd) end as coverage_usd,
    analytics.capped(group_before[1] - group_before[2]) as previous_unpriced_requests,
    analytics.capped(group_after[1] - group_after[2]) as unpriced_requests
from summed
order by case when not is_unknown then abs(cost_usd - previous_cost_usd) end desc nulls last, {group}

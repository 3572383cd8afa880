-- Why the cost of each group changed from the days compared with, in five parts that add up.
with models as (
    {usage}
),
pairs as (
    select
        {group},
        provider,
        model,
        array[{counts_before}] as counts_before,
        array[{counts_after}] as counts_after
    from models
),
grouped as (
    select
        pairs.*,
        sum(coalesce(counts_before[1], 0)) over groups as group_before,
        sum(coalesce(counts_after[1], 0)) over groups as group_after
    from pairs
    window groups as (partition by {group})
)
select
    {group},
    sum(coalesce(grouped.counts_before[2], 0)) as previous_cost_usd,
    sum(coalesce(grouped.counts_after[2], 0)) as cost_usd,
    sum(coalesce(grouped.counts_after[2], 0) - coalesce(grouped.counts_before[2], 0)) as change_usd,
    sum(part.volume_usd),
    sum(part.mix_usd),
    sum(part.tokens_per_request_usd),
    sum(part.cache_usd),
    sum(part.price_usd)
from grouped
cross join lateral analytics.cost_change(
    grouped.group_before,
    grouped.group_after,
    grouped.counts_before,
    grouped.counts_after,
    analytics.list_prices(grouped.provider, grouped.model, %(last_before)s)
) as part
group by {group}
order by abs(sum(coalesce(grouped.counts_after[2], 0) - coalesce(grouped.counts_before[2], 0))) desc, {group}

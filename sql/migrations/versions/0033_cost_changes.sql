-- Why a cost changed between two periods: five parts that add up to the change, for one model of a group.
-- Counts of a period are requests whose cost is known, their cost, then tokens: input, output, cache reads, cache writes, reasoning,
-- audio in and out, images in and out. Prices are per million of the same tokens, in the same order.
create function analytics.cost_change(
    group_before numeric,
    group_after numeric,
    before numeric[],
    after numeric[],
    prices numeric[],
    out volume_usd numeric,
    out mix_usd numeric,
    out tokens_per_request_usd numeric,
    out cache_usd numeric,
    out price_usd numeric
)
language plpgsql immutable parallel safe
as $$
declare
    requests_before numeric := coalesce(before[1], 0);
    requests_after numeric := coalesce(after[1], 0);
    cost_before numeric := coalesce(before[2], 0);
    cost_after numeric := coalesce(after[2], 0);
    change numeric := cost_after - cost_before;
    -- What the requests of now would cost as those of before did.
    cost_of_equal numeric;
    -- The cost of a request by `prices`: as before; as now with the cached shares of before; as now.
    listed_before numeric := 0;
    listed_uncached numeric := 0;
    listed_after numeric := 0;
    like_before numeric[];
begin
    mix_usd := 0;
    tokens_per_request_usd := 0;
    cache_usd := 0;
    price_usd := 0;
    if group_before = 0 or group_after = 0 then
        -- A group that is new, or gone: there is nothing to compare.
        volume_usd := change;
        return;
    end if;
    volume_usd := round(cost_before * (group_after - group_before) / group_before, 9);
    if requests_before = 0 or requests_after = 0 then
        -- A model that is new in the group, or gone.
        mix_usd := change - volume_usd;
        return;
    end if;
    cost_of_equal := requests_after * cost_before / requests_before;
    mix_usd := round(cost_of_equal - cost_before * group_after / group_before, 9);
    like_before := after;
    if before[3] > 0 then
        like_before[5] := after[3] * before[5] / before[3];
        like_before[6] := after[3] * before[6] / before[3];
    end if;
    for place in 1 .. coalesce(array_length(prices, 1), 0) loop
        listed_before := listed_before + before[place + 2] * prices[place] / requests_before;
        listed_uncached := listed_uncached + like_before[place + 2] * prices[place] / requests_after;
        listed_after := listed_after + after[place + 2] * prices[place] / requests_after;
    end loop;
    if listed_before > 0 then
        tokens_per_request_usd := round(cost_of_equal * (listed_uncached / listed_before - 1), 9);
        cache_usd := round(cost_of_equal * (listed_after - listed_uncached) / listed_before, 9);
    elsif before[3] + before[4] > 0 then
        -- Without prices, each token counts the same.
        tokens_per_request_usd := round(
            cost_of_equal * ((after[3] + after[4]) / requests_after / ((before[3] + before[4]) / requests_before) - 1),
            9
        );
    end if;
    -- All that is left: prices, tiers, and what senders were charged.
    price_usd := change - volume_usd - mix_usd - tokens_per_request_usd - cache_usd;
    if abs(price_usd) < 0.00000001 then
        volume_usd := volume_usd + price_usd;
        price_usd := 0;
    end if;
end
$$;

comment on function analytics.cost_change is 'Why the cost of a model in a group changed: more or fewer requests of the group, another mix of models, more or fewer tokens a request, another share from the cache, and all else (prices, tiers, what senders were charged). The parts add up to the change';

-- With the rights of the owner: whoever reads costs need not read all prices.
create function analytics.list_prices(provider_name text, model_name text, day date) returns numeric[]
language sql stable security definer
set search_path = pg_catalog, pg_temp
return (
    select array[
        input_usd,
        output_usd,
        cache_read_usd,
        cache_write_usd,
        output_reasoning_usd,
        input_audio_usd,
        output_audio_usd,
        input_image_usd,
        output_image_usd
    ]
    from analytics.model_prices
    where price_version = (
            select day_prices.price_version
            from analytics.day_prices
            where day_prices.usage_date <= day
            order by day_prices.usage_date desc
            limit 1
        )
      and provider = provider_name
      and model = model_name
      and service_tier = ''
      and valid_from <= day
      and valid_until > day
      and any_of is null
    order by input_tokens_from, daily_from
    limit 1
);
revoke execute on function analytics.list_prices from public;
comment on function analytics.list_prices is 'US dollars per million tokens of a model on a day, in the usual tier and for short prompts, by the prices of that day or of the last one before; null: no price is known';

create view reporting.cost_changes as
with each as (
    select
        month_start,
        team,
        provider,
        model,
        array[
            sum(requests - unpriced_requests),
            coalesce(sum(cost_usd), 0),
            sum(input_tokens),
            sum(output_tokens),
            sum(cache_read_tokens),
            sum(cache_write_tokens),
            sum(output_reasoning_tokens),
            sum(input_audio_tokens),
            sum(output_audio_tokens),
            sum(input_image_tokens),
            sum(output_image_tokens)
        ] as counts
    from analytics.usage_monthly
    group by month_start, team, provider, model
),
pairs as (
    select
        coalesce(now.month_start, (before.month_start + interval '1 month')::date) as month_start,
        coalesce(now.team, before.team) as team,
        coalesce(now.provider, before.provider) as provider,
        coalesce(now.model, before.model) as model,
        before.counts as counts_before,
        now.counts as counts_after
    from each as now
    full join each as before
        on before.month_start = (now.month_start - interval '1 month')::date
        and before.team = now.team
        and before.provider = now.provider
        and before.model = now.model
),
grouped as (
    select
        pairs.*,
        sum(coalesce(counts_before[1], 0)) over groups as group_before,
        sum(coalesce(counts_after[1], 0)) over groups as group_after
    from pairs
    -- The month after the last one has nothing yet.
    where month_start <= (select max(month_start) from analytics.usage_monthly)
    window groups as (partition by month_start, team)
)
select
    grouped.month_start,
    grouped.team,
    sum(coalesce(grouped.counts_before[2], 0)) as previous_cost_usd,
    sum(coalesce(grouped.counts_after[2], 0)) as cost_usd,
    sum(coalesce(grouped.counts_after[2], 0) - coalesce(grouped.counts_before[2], 0)) as change_usd,
    sum(part.volume_usd) as volume_usd,
    sum(part.mix_usd) as mix_usd,
    sum(part.tokens_per_request_usd) as tokens_per_request_usd,
    sum(part.cache_usd) as cache_usd,
    sum(part.price_usd) as price_usd
from grouped
cross join lateral analytics.cost_change(
    grouped.group_before,
    grouped.group_after,
    grouped.counts_before,
    grouped.counts_after,
    analytics.list_prices(grouped.provider, grouped.model, grouped.month_start - 1)
) as part
group by grouped.month_start, grouped.team;
comment on view reporting.cost_changes is 'Why the cost of each team changed from one month to the next: five parts that add up to the change';
comment on column reporting.cost_changes.month_start is 'First day of the month';
comment on column reporting.cost_changes.team is 'Team that it is charged to';
comment on column reporting.cost_changes.previous_cost_usd is 'US dollars of the month before';
comment on column reporting.cost_changes.cost_usd is 'US dollars of the month';
comment on column reporting.cost_changes.change_usd is 'Their difference: the sum of the five parts';
comment on column reporting.cost_changes.volume_usd is 'Because the team made more or fewer requests';
comment on column reporting.cost_changes.mix_usd is 'Because it used other models, or the same ones in other shares';
comment on column reporting.cost_changes.tokens_per_request_usd is 'Because requests had more or fewer tokens';
comment on column reporting.cost_changes.cache_usd is 'Because another share of the input came from the cache of the provider, or was written to it';
comment on column reporting.cost_changes.price_usd is 'All else: list prices, tiers, and what senders were charged';

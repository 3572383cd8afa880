-- Why a cost changed between two periods: six parts that add up to the change, for one model of a group.
-- Columns that were there stay in their places, so that views of others which read them go on.

-- How many requests of a model are compared, before and after: those whose cost is known, as if as large a share of them had been
-- known before as is known now. None where no cost is known on one side. Counts are those of analytics.cost_change.
create function analytics.compared_requests(before numeric[], after numeric[]) returns numeric[]
language sql immutable parallel safe
return case
    when coalesce(before[1], 0) = 0 or coalesce(after[1], 0) = 0 then array[coalesce(before[2], 0), coalesce(after[2], 0)]
    when before[2] = 0 or after[2] = 0 then array[0, 0]::numeric[]
    else array[before[1] * after[2] / after[1], after[2]]
end;
comment on function analytics.compared_requests is 'How many requests of a model are compared before and after: those whose cost is known, at the share that is known after; none where no cost is known on one side';

-- Counts of a period are all requests, those whose cost is known, their cost, then tokens of all requests: input, output, cache reads,
-- cache writes, reasoning, audio in and out, images in and out. Prices are per million of the same tokens, in the same order.
-- Counts of a group are all requests, those whose cost is known, and those that are compared.
create function analytics.cost_change(
    group_before numeric[],
    group_after numeric[],
    before numeric[],
    after numeric[],
    prices numeric[],
    out volume_usd numeric,
    out mix_usd numeric,
    out tokens_per_request_usd numeric,
    out cache_usd numeric,
    out price_usd numeric,
    out coverage_usd numeric
)
language plpgsql immutable parallel safe
as $$
declare
    requests_before numeric := coalesce(before[1], 0);
    requests_after numeric := coalesce(after[1], 0);
    known_before numeric := coalesce(before[2], 0);
    known_after numeric := coalesce(after[2], 0);
    cost_before numeric := coalesce(before[3], 0);
    change numeric := coalesce(after[3], 0) - coalesce(before[3], 0);
    compared_before numeric := group_before[3];
    compared_after numeric := group_after[3];
    -- What the requests of now would cost as those of before did.
    cost_of_equal numeric;
    -- The cost of a request by `prices`: as before; as now with the cached shares of before; as now.
    listed_before numeric := 0;
    listed_uncached numeric := 0;
    listed_after numeric := 0;
    like_before numeric[];
begin
    volume_usd := 0;
    mix_usd := 0;
    tokens_per_request_usd := 0;
    cache_usd := 0;
    price_usd := 0;
    coverage_usd := 0;
    if group_before[1] = 0 or group_after[1] = 0 then
        -- A group that is new, or gone: there is nothing to compare.
        volume_usd := change;
        return;
    end if;
    if group_before[2] = 0 or group_after[2] = 0 then
        -- A group that made requests on both sides, and no cost is known on one of them.
        coverage_usd := change;
        return;
    end if;
    if requests_before > 0 and requests_after > 0 then
        if known_before = 0 or known_after = 0 then
            -- The same of a model.
            coverage_usd := change;
            return;
        end if;
        -- From here on as if as large a share had been known before.
        coverage_usd := round(
            cost_before * requests_before * known_after / (requests_after * known_before) - cost_before, 9
        );
        cost_before := cost_before + coverage_usd;
    end if;
    if compared_before > 0 and compared_after > 0 then
        volume_usd := round(cost_before * (compared_after - compared_before) / compared_before, 9);
    end if;
    if known_before = 0 or known_after = 0 or compared_before = 0 or compared_after = 0 then
        -- A model that is new in the group, or gone.
        mix_usd := change - coverage_usd - volume_usd;
        return;
    end if;
    cost_of_equal := known_after * before[3] / known_before;
    mix_usd := round(cost_of_equal - cost_before * compared_after / compared_before, 9);
    like_before := after;
    if before[4] > 0 then
        like_before[6] := after[4] * before[6] / before[4];
        like_before[7] := after[4] * before[7] / before[4];
    end if;
    for place in 1 .. coalesce(array_length(prices, 1), 0) loop
        listed_before := listed_before + before[place + 3] * prices[place] / requests_before;
        listed_uncached := listed_uncached + like_before[place + 3] * prices[place] / requests_after;
        listed_after := listed_after + after[place + 3] * prices[place] / requests_after;
    end loop;
    if listed_before > 0 then
        tokens_per_request_usd := round(cost_of_equal * (listed_uncached / listed_before - 1), 9);
        cache_usd := round(cost_of_equal * (listed_after - listed_uncached) / listed_before, 9);
    elsif before[4] + before[5] > 0 then
        -- Without prices, each token counts the same.
        tokens_per_request_usd := round(
            cost_of_equal * ((after[4] + after[5]) / requests_after / ((before[4] + before[5]) / requests_before) - 1),
            9
        );
    end if;
    -- All that is left: prices, tiers, and what senders were charged.
    price_usd := change - volume_usd - mix_usd - tokens_per_request_usd - cache_usd - coverage_usd;
    if abs(price_usd) < 0.00000001 then
        -- What was rounded: to the largest part, so that no part is there for it alone.
        if abs(coverage_usd) > abs(volume_usd) then
            coverage_usd := coverage_usd + price_usd;
        else
            volume_usd := volume_usd + price_usd;
        end if;
        price_usd := 0;
    end if;
end
$$;

-- From days: a month is rolled up once a day, and until then would miss what was corrected today.
create or replace view reporting.cost_changes as
with each as (
    select
        date_trunc('month', usage_date::timestamp)::date as month_start,
        team,
        provider,
        model,
        array[
            sum(requests),
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
    from analytics.usage_daily
    group by date_trunc('month', usage_date::timestamp)::date, team, provider, model
),
pairs as (
    select
        coalesce(now.month_start, (before.month_start + interval '1 month')::date) as month_start,
        coalesce(now.team, before.team) as team,
        coalesce(now.provider, before.provider) as provider,
        coalesce(now.model, before.model) as model,
        before.counts as before,
        now.counts as after
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
        array[
            sum(coalesce(before[1], 0)) over groups,
            sum(coalesce(before[2], 0)) over groups,
            sum(compared[1]) over groups
        ] as group_before,
        array[
            sum(coalesce(after[1], 0)) over groups,
            sum(coalesce(after[2], 0)) over groups,
            sum(compared[2]) over groups
        ] as group_after
    from pairs
    cross join lateral analytics.compared_requests(before, after) as compared
    -- The month after the last one has nothing yet.
    where month_start <= (select max(usage_date) from analytics.usage_daily)
    window groups as (partition by month_start, team)
),
summed as (
    select
        grouped.month_start,
        grouped.team,
        grouped.group_before,
        grouped.group_after,
        sum(coalesce(grouped.before[3], 0)) as previous_cost_usd,
        sum(coalesce(grouped.after[3], 0)) as cost_usd,
        sum(part.volume_usd) as volume_usd,
        sum(part.mix_usd) as mix_usd,
        sum(part.tokens_per_request_usd) as tokens_per_request_usd,
        sum(part.cache_usd) as cache_usd,
        sum(part.price_usd) as price_usd,
        sum(part.coverage_usd) as coverage_usd,
        -- No request is known to have cost anything, or nothing.
        grouped.group_before[1] > 0 and grouped.group_before[2] = 0 as is_unknown_before,
        grouped.group_after[1] > 0 and grouped.group_after[2] = 0 as is_unknown_after,
        grouped.group_before[2] + grouped.group_after[2] = 0 as is_unknown
    from grouped
    cross join lateral analytics.cost_change(
        grouped.group_before,
        grouped.group_after,
        grouped.before,
        grouped.after,
        analytics.list_prices(grouped.provider, grouped.model, grouped.month_start - 1)
    ) as part
    group by grouped.month_start, grouped.team, grouped.group_before, grouped.group_after
)
select
    month_start,
    team,
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
from summed;
drop function analytics.cost_change(numeric, numeric, numeric[], numeric[], numeric[]);
comment on function analytics.cost_change is 'Why the cost of a model in a group changed: more or fewer requests of the group whose cost is known, another mix of models, more or fewer tokens a request, another share from the cache, all else (prices, tiers, what senders were charged), and requests whose cost became known or unknown. The parts add up to the change';

comment on view reporting.cost_changes is 'Why the cost of each team changed from one month to the next: six parts that add up to the change; null where no cost is known';
comment on column reporting.cost_changes.month_start is 'First day of the month';
comment on column reporting.cost_changes.team is 'Team that it is charged to';
comment on column reporting.cost_changes.previous_cost_usd is 'US dollars of the month before; null when it had requests, and no cost of any is known';
comment on column reporting.cost_changes.cost_usd is 'US dollars of the month; null when it had requests, and no cost of any is known';
comment on column reporting.cost_changes.change_usd is 'Their difference, what is not known left out: the sum of the six parts; null when no cost of either month is known';
comment on column reporting.cost_changes.volume_usd is 'Because the team made more or fewer requests whose cost is known';
comment on column reporting.cost_changes.mix_usd is 'Because it used other models, or the same ones in other shares';
comment on column reporting.cost_changes.tokens_per_request_usd is 'Because requests had more or fewer tokens';
comment on column reporting.cost_changes.cache_usd is 'Because another share of the input came from the cache of the provider, or was written to it';
comment on column reporting.cost_changes.price_usd is 'All else: list prices, tiers, and what senders were charged';
comment on column reporting.cost_changes.coverage_usd is 'Because the cost of more or fewer requests is known: their price became known, or their senders told it';
comment on column reporting.cost_changes.previous_unpriced_requests is 'Requests of the month before that are not in previous_cost_usd';
comment on column reporting.cost_changes.unpriced_requests is 'Requests of the month that are not in cost_usd';

-- Which tags there are, and which a team has, is asked with each load of the page: by a step through this for each, not by reading all
-- days. Tags do not come first, so that nobody who asks for days of a tag is tempted by it.
create index on analytics.usage_tag_daily (team, tag);

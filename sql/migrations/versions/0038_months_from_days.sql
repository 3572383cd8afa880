-- What a month costs, from its days: a month is rolled up once a day, and until then would miss what was corrected today. So these views
-- always say what all others do.
create index on analytics.usage_daily ((date_trunc('month', usage_date::timestamp)::date), team);

create or replace view reporting.charge_back as
with corrected as (
    -- Once for each team and month that the event had before, or has since.
    select distinct
        date_trunc('month', (versions.event ->> 'event_time')::timestamptz at time zone current_day.time_zone)::date as month_start,
        versions.event ->> 'team' as team,
        corrections.correction_id,
        corrections.corrected_at
    from ops.corrections
    cross join reporting.current_day
    cross join lateral (values (corrections.before), (corrections.after)) as versions (event)
    where corrections.event_id is not null
      and versions.event ? 'event_time'
),
each as (
    select
        date_trunc('month', usage_date::timestamp)::date as month_start,
        team,
        requests,
        cost_usd,
        list_cost_usd,
        reported_cost_usd,
        unpriced_requests,
        unlisted_requests,
        reported_requests,
        null::bigint as correction_id,
        null::timestamptz as corrected_at
    from analytics.usage_daily
    union all
    select month_start, team, 0, null, null, null, 0, 0, 0, correction_id, corrected_at
    from corrected
),
charged as (
    select
        month_start,
        team,
        analytics.capped(sum(requests)) as requests,
        trim_scale(sum(cost_usd)) as cost_usd,
        trim_scale(sum(list_cost_usd)) as list_cost_usd,
        trim_scale(sum(reported_cost_usd)) as reported_cost_usd,
        analytics.capped(sum(unpriced_requests)) as unpriced_requests,
        analytics.capped(sum(unlisted_requests)) as unlisted_requests,
        analytics.capped(sum(reported_requests)) as reported_requests,
        count(correction_id) as corrections,
        max(corrected_at) as last_corrected_at
    from each
    group by month_start, team
)
select
    charged.month_start,
    charged.team,
    charged.requests,
    charged.cost_usd,
    charged.list_cost_usd,
    charged.reported_cost_usd,
    charged.unpriced_requests,
    charged.unlisted_requests,
    charged.reported_requests,
    charged.corrections,
    coalesce(late.changes, 0) as late_changes,
    coalesce(late.change_usd, 0) as late_change_usd,
    greatest(charged.last_corrected_at, late.last_changed_at) as last_changed_at
from charged
left join (
    select
        date_trunc('month', usage_date::timestamp)::date as month_start,
        count(*) as changes,
        trim_scale(
            sum(coalesce((after ->> 'cost_usd')::numeric, 0) - coalesce((before ->> 'cost_usd')::numeric, 0))
        ) as change_usd,
        max(detected_at) as last_changed_at
    from ops.late_data
    where table_name = 'analytics.usage_daily'
      -- Events that came too late to be counted changed nothing.
      and after - 'uncounted_events' <> before
    group by 1
) as late on late.month_start = charged.month_start;
comment on view reporting.charge_back is 'What to charge each team for a month, and what changed about that month since; the running month so far';

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

-- What a month costs, from its days: a month is rolled up once a day, and until then would miss what was corrected today. So this view
-- always says what all others do.
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

-- Views for analysts: more of what the roll-ups have. Columns that were there stay in their places, new ones come last.

-- As fine as its table: sums by user are what they were.
create or replace view reporting.usage_by_user as
select
    usage_date,
    user_id,
    requests,
    errors,
    input_tokens,
    output_tokens,
    total_tokens,
    cost_usd,
    unpriced_requests,
    list_cost_usd,
    reported_cost_usd,
    reported_requests,
    unlisted_requests,
    cache_read_tokens,
    cache_write_tokens,
    output_reasoning_tokens,
    input_audio_tokens,
    output_audio_tokens,
    input_image_tokens,
    output_image_tokens,
    unattributed_tokens,
    other_units,
    team,
    service,
    provider,
    model
from analytics.usage_user_daily;
comment on view reporting.usage_by_user is 'Usage of models per day, user, team, service, provider and model';
comment on column reporting.usage_by_user.team is 'Team that it is charged to';
comment on column reporting.usage_by_user.service is 'Service that called the model';
comment on column reporting.usage_by_user.provider is 'Provider of the model';
comment on column reporting.usage_by_user.model is 'Model, as the client named it';

comment on view reporting.usage_by_day is 'Usage of models per day, team, service, provider and model; today as far as it is rolled up';
comment on column reporting.usage_by_day.usage_date is 'Day';
comment on column reporting.usage_by_day.service is 'Service that called the model';
comment on column reporting.usage_by_day.latency_p50_ms is 'Median latency in milliseconds, of the requests that have one; one decimal';
comment on column reporting.usage_by_day.latency_p95_ms is '95th percentile of the latency in milliseconds; one decimal';
comment on column reporting.usage_by_day.latency_p99_ms is '99th percentile of the latency in milliseconds; one decimal';
comment on column reporting.usage_by_day.distinct_users is 'Users of the day, each once';

comment on view reporting.usage_by_week is 'Usage of models per week, team, service, provider and model; the running week up to yesterday';
comment on column reporting.usage_by_week.week_start is 'Monday of the week';
comment on column reporting.usage_by_week.service is 'Service that called the model';
comment on column reporting.usage_by_week.latency_p50_ms is 'Median latency in milliseconds, of the requests that have one; one decimal';
comment on column reporting.usage_by_week.latency_p95_ms is '95th percentile of the latency in milliseconds; one decimal';
comment on column reporting.usage_by_week.latency_p99_ms is '99th percentile of the latency in milliseconds; one decimal';
comment on column reporting.usage_by_week.distinct_users is 'Users of the week, each once';

comment on view reporting.usage_by_month is 'Usage of models per month, team, service, provider and model; the running month up to yesterday';
comment on column reporting.usage_by_month.month_start is 'First day of the month';
comment on column reporting.usage_by_month.service is 'Service that called the model';
comment on column reporting.usage_by_month.latency_p50_ms is 'Median latency in milliseconds, of the requests that have one; one decimal';
comment on column reporting.usage_by_month.latency_p95_ms is '95th percentile of the latency in milliseconds; one decimal';
comment on column reporting.usage_by_month.latency_p99_ms is '99th percentile of the latency in milliseconds; one decimal';
comment on column reporting.usage_by_month.distinct_users is 'Users of the month, each once';

comment on view reporting.usage_by_api_key is 'Usage of models per day, API key, team, service, provider and model. Days whose events were dropped before this view was there have no rows. Counters of API keys are another thing: api_key_usage_by_day';
comment on column reporting.usage_by_api_key.usage_date is 'Day';
comment on column reporting.usage_by_api_key.api_key_id is 'API key that the requests were made with; empty where nobody said it';
comment on column reporting.usage_by_api_key.service is 'Service that called the model';

comment on view reporting.usage_by_tag is 'Usage of models per day, tag (those of ROLLUP_TAGS) and its value, team, provider and model. A request counts once for each of its tags, and requests without the tag are not here';
comment on column reporting.usage_by_tag.usage_date is 'Day';
comment on column reporting.usage_by_tag.tag is 'Name of the tag';
comment on column reporting.usage_by_tag.value is 'Value of the tag; other where is_rest';
comment on column reporting.usage_by_tag.is_rest is 'Whether it is all values beyond those with the most requests of the day, together';

-- A group is found by its key, which the index of days has: so a span of days reads those days only, in both tables.
create view reporting.errors_by_type as
select
    typed.usage_date,
    typed.team,
    typed.service,
    typed.provider,
    typed.model,
    typed.error_type,
    typed.status_code,
    typed.errors,
    daily.requests,
    round(typed.errors::numeric / nullif(daily.requests, 0), 4) as error_share
from analytics.usage_error_daily as typed
left join analytics.usage_daily as daily
    on daily.usage_date = typed.usage_date
    and analytics.group_key(daily.team, daily.service, daily.provider, daily.model)
        = analytics.group_key(typed.team, typed.service, typed.provider, typed.model)
union all
-- Errors whose types went with their events before types were kept: else they would look like none.
select
    daily.usage_date,
    daily.team,
    daily.service,
    daily.provider,
    daily.model,
    null,
    null,
    daily.untyped_errors,
    daily.requests,
    round(daily.untyped_errors::numeric / nullif(daily.requests, 0), 4)
from (
    select
        usage_date,
        team,
        service,
        provider,
        model,
        requests,
        errors - (
            select coalesce(sum(typed.errors), 0)::bigint
            from analytics.usage_error_daily as typed
            where typed.usage_date = counted.usage_date
              and analytics.group_key(typed.team, typed.service, typed.provider, typed.model)
                  = analytics.group_key(counted.team, counted.service, counted.provider, counted.model)
        ) as untyped_errors
    from analytics.usage_daily as counted
    where errors > 0
) as daily
where daily.untyped_errors > 0;
comment on view reporting.errors_by_type is 'Requests to models that failed, per day, team, service, provider, model, type of error and status';
comment on column reporting.errors_by_type.usage_date is 'Day';
comment on column reporting.errors_by_type.team is 'Team that it is charged to';
comment on column reporting.errors_by_type.service is 'Service that called the model';
comment on column reporting.errors_by_type.provider is 'Provider of the model';
comment on column reporting.errors_by_type.model is 'Model, as the client named it';
comment on column reporting.errors_by_type.error_type is 'Kind of error, as the sender named it; empty: the sender named none; null: not known any more, since the events were dropped before types were kept';
comment on column reporting.errors_by_type.status_code is 'HTTP status; 0: the sender said none; null: not known any more';
comment on column reporting.errors_by_type.errors is 'Requests that failed so';
comment on column reporting.errors_by_type.requests is 'All requests of this day, team, service, provider and model: the same on each of their rows, so do not add it up over types';
comment on column reporting.errors_by_type.error_share is 'errors of each of these requests, from 0 to 1; shares of several types add up, those of several days or groups do not';

-- Of months as they are rolled up, so that a month and a team are found by index. What was taken out altogether keeps its row.
create view reporting.charge_back as
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
        month_start,
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
    from analytics.usage_monthly
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
comment on view reporting.charge_back is 'What to charge each team for a month, and what changed about that month since; the running month up to yesterday';
comment on column reporting.charge_back.month_start is 'First day of the month';
comment on column reporting.charge_back.team is 'Team that it is charged to';
comment on column reporting.charge_back.requests is 'Requests, all outcomes';
comment on column reporting.charge_back.cost_usd is 'US dollars to charge: per request what the sender was charged, or else the list price; null when neither is known of any request';
comment on column reporting.charge_back.list_cost_usd is 'US dollars by list prices, over all requests; null when no request could be priced';
comment on column reporting.charge_back.reported_cost_usd is 'US dollars that senders say they were charged; null when none said';
comment on column reporting.charge_back.unpriced_requests is 'Requests that are not in cost_usd: nobody said what was charged, and no price is known for their model, or their usage is not known';
comment on column reporting.charge_back.unlisted_requests is 'Requests that are not in list_cost_usd';
comment on column reporting.charge_back.reported_requests is 'Requests that are in reported_cost_usd';
comment on column reporting.charge_back.corrections is 'Corrections by name (usage-pipeline events, POST corrections) of events that were or are of this team and month';
comment on column reporting.charge_back.late_changes is 'How often a day of the month changed after it was closed, for all teams together, by corrections too: the same on each row of the month';
comment on column reporting.charge_back.late_change_usd is 'By how many US dollars these changes moved the cost of the month, for all teams together: the same on each row of the month';
comment on column reporting.charge_back.last_changed_at is 'The latest of these corrections and late changes: what was charged before that may be out of date; null: none';

-- Percentiles are rounded as in the other views.
create or replace view reporting.usage_by_hour as
select
    hour_start,
    team,
    service,
    provider,
    model,
    requests,
    errors,
    input_tokens,
    output_tokens,
    total_tokens,
    round(latency_p50_ms::numeric, 1)::float8 as latency_p50_ms,
    round(latency_p95_ms::numeric, 1)::float8 as latency_p95_ms,
    round(latency_p99_ms::numeric, 1)::float8 as latency_p99_ms,
    distinct_users,
    cost_usd,
    unpriced_requests,
    cache_read_tokens,
    cache_write_tokens,
    output_reasoning_tokens,
    input_audio_tokens,
    output_audio_tokens,
    input_image_tokens,
    output_image_tokens,
    unattributed_tokens,
    other_units,
    list_cost_usd,
    reported_cost_usd,
    reported_requests,
    unlisted_requests
from analytics.usage_hourly as stored
where not exists (
    select 1
    from ops.touched_windows as touched
    where touched.grain = 'hour'
      and touched.window_start = stored.hour_start
)
union all
select
    hour_start,
    team,
    service,
    provider,
    model,
    requests,
    errors,
    input_tokens,
    output_tokens,
    total_tokens,
    round(latency_p50_ms::numeric, 1)::float8 as latency_p50_ms,
    round(latency_p95_ms::numeric, 1)::float8 as latency_p95_ms,
    round(latency_p99_ms::numeric, 1)::float8 as latency_p99_ms,
    distinct_users,
    cost_usd,
    unpriced_requests,
    cache_read_tokens,
    cache_write_tokens,
    output_reasoning_tokens,
    input_audio_tokens,
    output_audio_tokens,
    input_image_tokens,
    output_image_tokens,
    unattributed_tokens,
    other_units,
    list_cost_usd,
    reported_cost_usd,
    reported_requests,
    unlisted_requests
from analytics.changed_hours();

create or replace view reporting.data_freshness as
with recursive made as (
    select table_name, date, max(made_at) as made_at
    from (
        select table_name, date, made_at from ops.made_dates
        union all
        select 'stats.daily_issue_stats', date, updated_at from stats.daily_issue_stats
        union all
        select 'stats.popular_' || ranking, ranking_date, null from reporting.rankings
    ) as noted
    group by table_name, date
),
sources as (
    select
        'usage.' || family || '_daily' as table_name,
        max(usage_date) filter (where rolled_at >= (usage_date + 1)::timestamp at time zone time_zone) as newest_complete_day,
        max(rolled_at) as last_rolled_up_at,
        count(*) filter (where version > rolled_version and usage_date < today) as closed_windows_waiting
    from ops.touched_days
    cross join reporting.current_day
    group by family
    union all
    select
        'usage.merchant_usage',
        max(usage_dates[1]) filter (where applied_at >= (usage_dates[1] + 1)::timestamp at time zone time_zone),
        max(applied_at),
        null
    from ops.sync_batches
    cross join reporting.current_day
    where family = 'merchant'
    union all
    select
        made.table_name,
        -- Rankings that were made before this was noted have no time.
        max(made.date) filter (
            where coalesce(made.made_at >= (made.date + 1)::timestamp at time zone time_zone, made.date < today)
        ),
        max(made.made_at),
        count(*) filter (
            where made.date < today
              and exists (
                select 1
                from ops.touched_dates as touched
                where touched.table_name = made.table_name
                  and touched.date = made.date
              )
        )
    from made
    cross join reporting.current_day
    group by made.table_name
),
windows as (
    select
        grain,
        max(window_end) filter (where rolled_at >= window_end) as complete_until,
        max(rolled_at) as last_rolled_up_at
    from (
        select
            grain,
            rolled_at,
            case
                when grain = 'hour' then window_start + interval '1 hour'
                else (window_start at time zone time_zone + ('1 ' || grain)::interval) at time zone time_zone
            end as window_end
        from ops.rolled_windows
        cross join reporting.current_day
    ) as ends
    group by grain
),
waiting as (
    select
        grain,
        count(distinct window_start) as closed_windows
    from ops.touched_windows
    cross join reporting.current_day
    where window_start < date_trunc(grain, now(), time_zone)
    group by grain
),
reads as (
    -- From PostgreSQL itself, so that no view is forgotten.
    select distinct
        rules.ev_class as view_id,
        needs.refobjid as source_id
    from pg_rewrite as rules
    join pg_depend as needs
        on needs.classid = 'pg_rewrite'::regclass
        and needs.objid = rules.oid
        and needs.refclassid = 'pg_class'::regclass
        and needs.refobjid <> rules.ev_class
    join pg_class as views on views.oid = rules.ev_class
    join pg_namespace as schemas on schemas.oid = views.relnamespace
    where schemas.nspname = 'reporting'
      and views.relname not in ('current_day', 'data_freshness')
),
reached as (
    select view_id, source_id
    from reads
    union
    select reached.view_id, reads.source_id
    from reached
    join reads on reads.view_id = reached.source_id
),
shown as (
    select
        coalesce(parts.table_name, named.table_name) as table_name,
        string_agg(distinct named.view_name, ', ' order by named.view_name) as views
    from (
        select
            views.relname::text collate "default" as view_name,
            (schemas.nspname || '.' || sources.relname) collate "default" as table_name
        from reached
        join pg_class as views on views.oid = reached.view_id
        join pg_class as sources on sources.oid = reached.source_id
        join pg_namespace as schemas on schemas.oid = sources.relnamespace
    ) as named
    left join (
        -- Made together with the day.
        values
            ('analytics.usage_user_daily', 'analytics.usage_daily'),
            ('analytics.usage_user_team_daily', 'analytics.usage_daily'),
            ('analytics.usage_api_key_daily', 'analytics.usage_daily'),
            ('analytics.usage_latency_daily', 'analytics.usage_daily'),
            ('analytics.usage_latency_dimension_daily', 'analytics.usage_daily'),
            ('analytics.usage_error_daily', 'analytics.usage_daily'),
            ('analytics.usage_tag_daily', 'analytics.usage_daily')
    ) as parts (part, table_name) on parts.part = named.table_name
    group by 1
)
select
    tables.table_name,
    shown.views,
    case
        when tables.grain is null then sources.newest_complete_day
        else (windows.complete_until at time zone current_day.time_zone)::date - 1
    end as newest_complete_day,
    coalesce(sources.last_rolled_up_at, windows.last_rolled_up_at) as last_rolled_up_at,
    case
        when tables.grain is null then sources.closed_windows_waiting
        else coalesce(waiting.closed_windows, 0)
    end as closed_windows_waiting
from (
    values
        ('analytics.usage_hourly', 'hour'),
        ('analytics.usage_daily', 'day'),
        ('analytics.usage_weekly', 'week'),
        ('analytics.usage_monthly', 'month'),
        ('usage.api_key_daily', null),
        ('usage.provider_daily', null),
        ('usage.token_daily', null),
        ('usage.merchant_usage', null),
        ('stats.daily_issue_stats', null),
        ('stats.popular_issues', null),
        ('stats.popular_models', null),
        ('stats.popular_models_by_tokens', null),
        ('stats.popular_services', null),
        ('stats.popular_services_by_tokens', null),
        ('stats.popular_api_keys', null)
) as tables (table_name, grain)
cross join reporting.current_day
left join shown on shown.table_name = tables.table_name
left join sources on sources.table_name = tables.table_name
left join windows on windows.grain = tables.grain
left join waiting on waiting.grain = tables.grain;

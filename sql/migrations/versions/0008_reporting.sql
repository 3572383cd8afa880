-- Views for analysts. A view runs with the rights of its owner, a function in it with those of its caller: so no function here
-- reads a table, but one that is SECURITY DEFINER and takes no arguments.

create table ops.calendar (
    is_only_row boolean primary key default true check (is_only_row),
    time_zone text not null default 'UTC',
    noted_at timestamptz not null default clock_timestamp()
);
insert into ops.calendar default values;
comment on table ops.calendar is 'What bounds a day, for views: one row, kept by `usage-pipeline migrate`';
comment on column ops.calendar.is_only_row is 'Always true: there is one row';
comment on column ops.calendar.time_zone is 'USAGE_TIMEZONE of the last migration';
comment on column ops.calendar.noted_at is 'When that last changed';

create view reporting.current_day as
select
    time_zone,
    (now() at time zone time_zone)::date as today,
    date_trunc('week', now() at time zone time_zone)::date as week_start,
    date_trunc('month', now() at time zone time_zone)::date as month_start
from ops.calendar;
comment on view reporting.current_day is 'Which day it is in the time zone that bounds all days here: one row';
comment on column reporting.current_day.time_zone is 'Time zone that bounds all days here (USAGE_TIMEZONE)';
comment on column reporting.current_day.today is 'The current day';
comment on column reporting.current_day.week_start is 'Monday of the current week';
comment on column reporting.current_day.month_start is 'First day of the current month';

{usage_by_team}

{usage_by_service}

{usage_by_model}

-- Usage of models up to now.

create function analytics.changed_hours()
returns table (
    hour_start timestamptz,
    team text,
    service text,
    provider text,
    model text,
    requests bigint,
    errors bigint,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    latency_p50_ms double precision,
    latency_p95_ms double precision,
    latency_p99_ms double precision,
    distinct_users bigint,
    cost_usd numeric,
    unpriced_requests bigint
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        live.hour_start,
        live.team,
        live.service,
        live.provider,
        live.model,
        live.requests,
        live.errors,
        live.input_tokens,
        live.output_tokens,
        live.total_tokens,
        live.latency_p50_ms,
        live.latency_p95_ms,
        live.latency_p99_ms,
        live.distinct_users,
        live.cost_usd,
        live.unpriced_requests
    from analytics.usage_hourly_live as live
    where live.hour_start in (select window_start from ops.touched_windows where grain = 'hour')
$$;
revoke execute on function analytics.changed_hours from public;
comment on function analytics.changed_hours is 'Usage of the hours whose events changed since they were rolled up, counted now, with the rights of the owner, so that reporting.usage_by_hour can show it to those who may not read events';

-- Stored hours come straight from their table, where a filter by time finds them by index; a function would read them all.
create view reporting.usage_by_hour as
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
    latency_p50_ms,
    latency_p95_ms,
    latency_p99_ms,
    distinct_users,
    cost_usd,
    unpriced_requests
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
    latency_p50_ms,
    latency_p95_ms,
    latency_p99_ms,
    distinct_users,
    cost_usd,
    unpriced_requests
from analytics.changed_hours();
comment on view reporting.usage_by_hour is 'Usage of models per hour, team, service, provider and model, up to this moment';
comment on column reporting.usage_by_hour.hour_start is 'First moment of the hour';
comment on column reporting.usage_by_hour.team is 'Team that it is charged to';
comment on column reporting.usage_by_hour.service is 'Service that called the model';
comment on column reporting.usage_by_hour.provider is 'Provider of the model';
comment on column reporting.usage_by_hour.model is 'Model, as the client named it';
comment on column reporting.usage_by_hour.requests is 'Requests, all outcomes';
comment on column reporting.usage_by_hour.errors is 'Requests that count as errors: a kind of error is named, or the status is 400 or more';
comment on column reporting.usage_by_hour.input_tokens is 'Tokens of the prompts, as far as the clients said';
comment on column reporting.usage_by_hour.output_tokens is 'Generated tokens, as far as the clients said';
comment on column reporting.usage_by_hour.total_tokens is 'All tokens';
comment on column reporting.usage_by_hour.latency_p50_ms is 'Median latency in milliseconds, of the requests that have one';
comment on column reporting.usage_by_hour.latency_p95_ms is '95th percentile of the latency in milliseconds';
comment on column reporting.usage_by_hour.latency_p99_ms is '99th percentile of the latency in milliseconds';
comment on column reporting.usage_by_hour.distinct_users is 'Users among the requests, each once';
comment on column reporting.usage_by_hour.cost_usd is 'US dollars of the requests that have a price; null when none has';
comment on column reporting.usage_by_hour.unpriced_requests is 'Requests that are not in cost_usd: no price is known, or the tokens are not split into input and output';

-- Cost. Of days and not of usage_monthly, so that a running month is as new as its last day.

{cost_by_team_and_month}
comment on view reporting.cost_by_team_and_month is 'Cost per month, team, provider and model; the running month as far as its days are rolled up';
comment on column reporting.cost_by_team_and_month.team is 'Team that it is charged to';
comment on column reporting.cost_by_team_and_month.provider is 'Provider of the model';
comment on column reporting.cost_by_team_and_month.model is 'Model, as the client named it';

{cost_by_model_and_month}
comment on view reporting.cost_by_model_and_month is 'Cost per month, provider and model; the running month as far as its days are rolled up';
comment on column reporting.cost_by_model_and_month.provider is 'Provider of the model';
comment on column reporting.cost_by_model_and_month.model is 'Model, as the client named it';

-- Latency. Percentiles of longer spans or fewer groups are no average of stored percentiles, so they come from the latencies.

create function analytics.latency_percentiles(latencies_ms integer[], requests numeric[]) returns double precision[]
language sql immutable parallel safe
return (
    select array_agg(lower_ms + (upper_ms - lower_ms) * (place - floor(place)) order by place)
    from (
        select
            share * last_rank as place,
            min(latency_ms) filter (where requests_so_far > floor(share * last_rank)) as lower_ms,
            min(latency_ms) filter (where requests_so_far > ceil(share * last_rank)) as upper_ms
        from (
            select
                latency_ms,
                sum(count::float8) over (order by latency_ms) as requests_so_far,
                sum(count::float8) over () - 1 as last_rank
            from unnest(latencies_ms, requests) as counts (latency_ms, count)
        ) as ranked
        cross join unnest(array[0.5, 0.95, 0.99]::float8[]) as shares (share)
        group by share, last_rank
    ) as places
);
comment on function analytics.latency_percentiles is 'Percentiles 50, 95 and 99, as percentile_cont has them, of latencies that occurred so many times each';

{latency_by_service}
comment on view reporting.latency_by_service is 'Latency per day and service, exact over all teams and models';
comment on column reporting.latency_by_service.usage_date is 'Day';
comment on column reporting.latency_by_service.service is 'Service that called the models';

{latency_by_service_and_week}
comment on view reporting.latency_by_service_and_week is 'Latency per week and service, exact over all days, teams and models; the running week as far as its days are rolled up';
comment on column reporting.latency_by_service_and_week.week_start is 'Monday of the week';
comment on column reporting.latency_by_service_and_week.service is 'Service that called the models';

{latency_by_model}
comment on view reporting.latency_by_model is 'Latency per day, provider and model, exact over all teams and services';
comment on column reporting.latency_by_model.usage_date is 'Day';
comment on column reporting.latency_by_model.provider is 'Provider of the model';
comment on column reporting.latency_by_model.model is 'Model, as the client named it';

-- Errors

{error_rate_by_provider}
comment on view reporting.error_rate_by_provider is 'Requests to models that failed, per day and provider';
comment on column reporting.error_rate_by_provider.provider is 'Provider of the models';

{error_rate_by_service}
comment on view reporting.error_rate_by_service is 'Requests to models that failed, per day, service and model that it called';
comment on column reporting.error_rate_by_service.service is 'Service that called the model';
comment on column reporting.error_rate_by_service.provider is 'Provider of the model';
comment on column reporting.error_rate_by_service.model is 'Model, as the client named it';

-- Counters of API servers: keys, storage providers, tokens, merchants.

create view reporting.api_key_usage_by_day as
select
    usage_date,
    api_key_id,
    total_requests as requests,
    successful_requests,
    failed_requests,
    round(failed_requests::numeric / nullif(total_requests, 0), 4) as error_share,
    total_files_uploaded as uploaded_files,
    total_file_size as uploaded_bytes
from usage.api_key_daily;
comment on view reporting.api_key_usage_by_day is 'Requests and uploads per day and API key';
comment on column reporting.api_key_usage_by_day.usage_date is 'Day';
comment on column reporting.api_key_usage_by_day.api_key_id is 'API key';
comment on column reporting.api_key_usage_by_day.requests is 'Requests, all outcomes';
comment on column reporting.api_key_usage_by_day.successful_requests is 'Requests that succeeded';
comment on column reporting.api_key_usage_by_day.failed_requests is 'Requests that failed';
comment on column reporting.api_key_usage_by_day.error_share is 'failed_requests of each request, from 0 to 1; null without requests';
comment on column reporting.api_key_usage_by_day.uploaded_files is 'Uploaded files';
comment on column reporting.api_key_usage_by_day.uploaded_bytes is 'Uploaded bytes';

create view reporting.api_key_activity as
with days as (
    select
        daily.api_key_id,
        min(daily.usage_date) as first_used_on,
        max(daily.usage_date) as last_used_on,
        sum(daily.total_requests) filter (where daily.usage_date > current_day.today - 7) as requests_last_7_days,
        sum(daily.total_requests) filter (where daily.usage_date > current_day.today - 30) as requests_last_30_days
    from usage.api_key_daily as daily
    cross join reporting.current_day
    group by daily.api_key_id
)
select
    keys.api_key_id,
    days.first_used_on,
    days.last_used_on,
    keys.last_used_at,
    analytics.capped(days.requests_last_7_days) as requests_last_7_days,
    analytics.capped(days.requests_last_30_days) as requests_last_30_days,
    keys.total_requests,
    keys.successful_requests,
    keys.failed_requests,
    round(keys.failed_requests::numeric / nullif(keys.total_requests, 0), 4) as error_share,
    keys.total_files_uploaded as uploaded_files,
    keys.total_file_size as uploaded_bytes
from usage.api_keys as keys
left join days on days.api_key_id = keys.api_key_id;
comment on view reporting.api_key_activity is 'How much and how lately each API key was used';
comment on column reporting.api_key_activity.api_key_id is 'API key';
comment on column reporting.api_key_activity.first_used_on is 'First day of use; null until a day of it is rolled up';
comment on column reporting.api_key_activity.last_used_on is 'Last day of use that is rolled up';
comment on column reporting.api_key_activity.last_used_at is 'Latest use that was drained, also of today';
comment on column reporting.api_key_activity.requests_last_7_days is 'Requests of today, as far as it is rolled up, and the six days before';
comment on column reporting.api_key_activity.requests_last_30_days is 'Requests of today, as far as it is rolled up, and the 29 days before';
comment on column reporting.api_key_activity.total_requests is 'Requests ever, all outcomes';
comment on column reporting.api_key_activity.successful_requests is 'Requests ever that succeeded';
comment on column reporting.api_key_activity.failed_requests is 'Requests ever that failed';
comment on column reporting.api_key_activity.error_share is 'failed_requests of each request, from 0 to 1; null without requests';
comment on column reporting.api_key_activity.uploaded_files is 'Uploaded files ever';
comment on column reporting.api_key_activity.uploaded_bytes is 'Uploaded bytes ever';

create view reporting.storage_provider_usage_by_day as
select
    usage_date,
    provider as storage_provider,
    api_key_id,
    upload_count as uploads,
    total_file_size as uploaded_bytes
from usage.provider_daily;
comment on view reporting.storage_provider_usage_by_day is 'Uploads per day, storage provider and API key';
comment on column reporting.storage_provider_usage_by_day.usage_date is 'Day';
comment on column reporting.storage_provider_usage_by_day.storage_provider is 'Storage provider that it was uploaded to';
comment on column reporting.storage_provider_usage_by_day.api_key_id is 'API key that uploaded';
comment on column reporting.storage_provider_usage_by_day.uploads is 'Uploads';
comment on column reporting.storage_provider_usage_by_day.uploaded_bytes is 'Uploaded bytes';

create view reporting.api_token_usage_by_day as
select
    daily.usage_date,
    daily.token_id,
    tokens.name as token_name,
    daily.usage_count as uses
from usage.token_daily as daily
left join usage.api_access_tokens as tokens on tokens.token_id = daily.token_id;
comment on view reporting.api_token_usage_by_day is 'Uses per day and API token, by the token''s id and name';
comment on column reporting.api_token_usage_by_day.usage_date is 'Day';
comment on column reporting.api_token_usage_by_day.token_id is 'API token: its id, by which nobody signs in';
comment on column reporting.api_token_usage_by_day.token_name is 'What its owner calls it; null for a token that is only known from its use';
comment on column reporting.api_token_usage_by_day.uses is 'Requests that were made with it';

create view reporting.merchant_usage_by_day as
select
    date as usage_date,
    merchant_id,
    metric_type,
    metric_value
from usage.merchant_usage;
comment on view reporting.merchant_usage_by_day is 'Counts per day, merchant and metric';
comment on column reporting.merchant_usage_by_day.usage_date is 'Day';
comment on column reporting.merchant_usage_by_day.merchant_id is 'Merchant';
comment on column reporting.merchant_usage_by_day.metric_type is 'What was counted';
comment on column reporting.merchant_usage_by_day.metric_value is 'Count of that day; today''s still grows';

-- Issues

create view reporting.issue_flow as
with changes as (
    select
        (issues.created_at at time zone current_day.time_zone)::date as day,
        1 as opened
    from app.issues
    cross join reporting.current_day
    union all
    select
        (issues.resolved_at at time zone current_day.time_zone)::date,
        -1
    from app.issues
    cross join reporting.current_day
    where issues.resolved_at is not null
),
days as (
    select
        day,
        sum(sum(opened)) over (order by day) as open_issues
    from (
        select day, opened from changes
        union all
        select date, 0 from stats.daily_issue_stats
    ) as all_days
    group by day
)
select
    counted.date as issue_date,
    counted.created_count as created_issues,
    counted.resolved_count as resolved_issues,
    counted.created_count - counted.resolved_count as net_issues,
    counted.comment_count as comments,
    days.open_issues::bigint as open_issues
from stats.daily_issue_stats as counted
join days on days.day = counted.date;
comment on view reporting.issue_flow is 'Issues created and resolved per day, and how many were open at its end; days whose statistics are made';
comment on column reporting.issue_flow.issue_date is 'Day';
comment on column reporting.issue_flow.created_issues is 'Issues reported on that day';
comment on column reporting.issue_flow.resolved_issues is 'Issues resolved or closed on that day, and not opened again since';
comment on column reporting.issue_flow.net_issues is 'created_issues less resolved_issues: by how much the backlog grew';
comment on column reporting.issue_flow.comments is 'Comments written on that day';
comment on column reporting.issue_flow.open_issues is 'Issues reported by the end of the day and not resolved by then (of today: by now): the backlog. From the issues themselves, so it needs no statistics of earlier days';

create view reporting.time_to_resolve_by_week as
select
    week_start,
    count(*) as resolved_issues,
    round((percentile_cont(0.5) within group (order by days_to_resolve))::numeric, 1) as median_days_to_resolve,
    round((percentile_cont(0.9) within group (order by days_to_resolve))::numeric, 1) as p90_days_to_resolve
from (
    select
        date_trunc('week', issues.resolved_at at time zone current_day.time_zone)::date as week_start,
        extract(epoch from issues.resolved_at - issues.created_at) / 86400 as days_to_resolve
    from app.issues
    cross join reporting.current_day
    where issues.resolved_at is not null
) as resolved
group by week_start;
comment on view reporting.time_to_resolve_by_week is 'How long issues took to be resolved, per week in which they were';
comment on column reporting.time_to_resolve_by_week.week_start is 'Monday of the week in which they were resolved or closed';
comment on column reporting.time_to_resolve_by_week.resolved_issues is 'Issues resolved or closed in that week, and not opened again since';
comment on column reporting.time_to_resolve_by_week.median_days_to_resolve is 'Half of them took at most so many days from report to resolution';
comment on column reporting.time_to_resolve_by_week.p90_days_to_resolve is 'Nine of ten took at most so many days';

create view reporting.rankings as
select
    'issues' as ranking,
    'views and comments' as score_unit,
    ranking_date,
    rank,
    id,
    title,
    score
from stats.popular_issues
union all
select
    'models',
    'requests',
    ranking_date,
    rank,
    id,
    title,
    score
from stats.popular_models
union all
select
    'models_by_tokens',
    'tokens',
    ranking_date,
    rank,
    id,
    title,
    score
from stats.popular_models_by_tokens
union all
select
    'services',
    'requests',
    ranking_date,
    rank,
    id,
    title,
    score
from stats.popular_services
union all
select
    'services_by_tokens',
    'tokens',
    ranking_date,
    rank,
    id,
    title,
    score
from stats.popular_services_by_tokens
union all
select
    'api_keys',
    'requests',
    ranking_date,
    rank,
    id,
    title,
    score
from stats.popular_api_keys;
comment on view reporting.rankings is 'The ten most popular issues, models, services and API keys of the seven days up to each date';
comment on column reporting.rankings.ranking is 'issues, models, models_by_tokens, services, services_by_tokens or api_keys';
comment on column reporting.rankings.score_unit is 'What score counts: views and comments, requests, or tokens';
comment on column reporting.rankings.ranking_date is 'Last of the seven days';
comment on column reporting.rankings.rank is '1 to 10';
comment on column reporting.rankings.id is 'What is ranked; for models provider/model';
comment on column reporting.rankings.title is 'What people call it';
comment on column reporting.rankings.score is 'By which it is ranked, in score_unit';

create view reporting.current_rankings as
select
    ranking,
    score_unit,
    ranking_date,
    rank,
    id,
    title,
    score
from (
    select
        ranking,
        score_unit,
        ranking_date,
        rank,
        id,
        title,
        score,
        max(ranking_date) over (partition by ranking) as newest_date
    from reporting.rankings
) as dated
where ranking_date = newest_date;
comment on view reporting.current_rankings is 'The newest of each ranking';
comment on column reporting.current_rankings.ranking is 'issues, models, models_by_tokens, services, services_by_tokens or api_keys';
comment on column reporting.current_rankings.score_unit is 'What score counts: views and comments, requests, or tokens';
comment on column reporting.current_rankings.ranking_date is 'Last of the seven days that it is about';
comment on column reporting.current_rankings.rank is '1 to 10';
comment on column reporting.current_rankings.id is 'What is ranked; for models provider/model';
comment on column reporting.current_rankings.title is 'What people call it';
comment on column reporting.current_rankings.score is 'By which it is ranked, in score_unit';

-- How far the data can be trusted.

create view reporting.data_freshness as
with sources as (
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
        'stats.daily_issue_stats',
        max(date) filter (where updated_at >= (date + 1)::timestamp at time zone time_zone),
        max(updated_at),
        null
    from stats.daily_issue_stats
    cross join reporting.current_day
    union all
    select
        'stats.popular_' || ranking,
        max(ranking_date) filter (where ranking_date < today),
        null,
        null
    from reporting.rankings
    cross join reporting.current_day
    group by ranking
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
)
select
    tables.table_name,
    tables.views,
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
        ('analytics.usage_hourly', 'hour', 'usage_by_hour'),
        (
            'analytics.usage_daily',
            'day',
            'usage_by_team, usage_by_service, usage_by_model, usage_by_user, cost_by_team_and_month, cost_by_model_and_month,'
            ' latency_by_service, latency_by_service_and_week, latency_by_model, error_rate_by_provider, error_rate_by_service'
        ),
        ('analytics.usage_weekly', 'week', null),
        ('analytics.usage_monthly', 'month', null),
        ('usage.api_key_daily', null, 'api_key_activity, api_key_usage_by_day'),
        ('usage.provider_daily', null, 'storage_provider_usage_by_day'),
        ('usage.token_daily', null, 'api_token_usage_by_day'),
        ('usage.merchant_usage', null, 'merchant_usage_by_day'),
        ('stats.daily_issue_stats', null, 'issue_flow'),
        ('stats.popular_issues', null, 'rankings, current_rankings'),
        ('stats.popular_models', null, 'rankings, current_rankings'),
        ('stats.popular_models_by_tokens', null, 'rankings, current_rankings'),
        ('stats.popular_services', null, 'rankings, current_rankings'),
        ('stats.popular_services_by_tokens', null, 'rankings, current_rankings'),
        ('stats.popular_api_keys', null, 'rankings, current_rankings')
) as tables (table_name, grain, views)
cross join reporting.current_day
left join sources on sources.table_name = tables.table_name
left join windows on windows.grain = tables.grain
left join waiting on waiting.grain = tables.grain;
comment on view reporting.data_freshness is 'How far the tables behind these views are complete';
comment on column reporting.data_freshness.table_name is 'Table that the pipeline fills';
comment on column reporting.data_freshness.views is 'Views that show it; null: none does directly';
comment on column reporting.data_freshness.newest_complete_day is 'Newest day that was rolled up after it was over (of a week or month its last day); null: none yet. Days without any usage are not seen for API keys, storage providers and tokens';
comment on column reporting.data_freshness.last_rolled_up_at is 'When anything of it was last rolled up or counted; null: never, or not known (rankings)';
comment on column reporting.data_freshness.closed_windows_waiting is 'Hours, days, weeks or months that are over, have changed since they were rolled up, and wait for a correction; null: not tracked for this table';

create view reporting.late_corrections as
select
    late.late_data_id as correction_number,
    late.detected_at as corrected_at,
    late.table_name,
    late.usage_date,
    late.window_start,
    measures.name as measure,
    (late.before ->> measures.name)::numeric as value_before,
    (late.after ->> measures.name)::numeric as value_after,
    coalesce((late.after ->> measures.name)::numeric, 0) - coalesce((late.before ->> measures.name)::numeric, 0) as change
from ops.late_data as late
cross join lateral jsonb_object_keys(late.before || late.after) as measures (name)
where (late.after ->> measures.name) is distinct from (late.before ->> measures.name);
comment on view reporting.late_corrections is 'What changed of hours, days, weeks and months that were over and rolled up already: one row per measure that changed';
comment on column reporting.late_corrections.correction_number is 'Correction: its measures share the number';
comment on column reporting.late_corrections.corrected_at is 'When the table was corrected';
comment on column reporting.late_corrections.table_name is 'Table that was corrected, see data_freshness';
comment on column reporting.late_corrections.usage_date is 'Day that changed; of a week or month its first day';
comment on column reporting.late_corrections.window_start is 'First moment of the hour, day, week or month that changed; null for tables of counters, whose days usage_date names';
comment on column reporting.late_corrections.measure is 'What changed, as a sum over the table''s rows of that time; rows: how many they are';
comment on column reporting.late_corrections.value_before is 'Sum before; null: there was none';
comment on column reporting.late_corrections.value_after is 'Sum after; null: there is none';
comment on column reporting.late_corrections.change is 'value_after less value_before, nothing taken as 0';

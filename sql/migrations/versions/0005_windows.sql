-- Roll-ups of usage events by hour, day, week and month, what they are made from, prices, and the views for analysts.

alter table ops.late_data add column window_start timestamptz;
comment on column ops.late_data.window_start is 'First moment of the window of usage events that changed; null: a day of a counter table';

-- Two absurd events of 2^63 tokens must not stop the roll-up of all others: what is beyond bigint is its greatest value.
create function analytics.capped(sum numeric) returns bigint
language sql immutable parallel safe
return least(coalesce(sum, 0), 9223372036854775807)::bigint;
comment on function analytics.capped is 'A sum as bigint: 0 for a sum of nothing, the greatest bigint when it is greater';

create table analytics.price_versions (
    price_version text primary key,
    source text not null check (source in ('genai-prices', 'csv')),
    checksum text,
    added_at timestamptz not null default clock_timestamp()
);
comment on table analytics.price_versions is 'Price tables that costs were computed by; the prices of a version never change';
comment on column analytics.price_versions.price_version is 'Version: the package of prices with its version, or the name of a table that was given';
comment on column analytics.price_versions.source is 'genai-prices: looked up in that package when a model is first met; csv: given as a whole to usage-pipeline recost';
comment on column analytics.price_versions.checksum is 'SHA-256 of the prices of a csv version; null for the package';
comment on column analytics.price_versions.added_at is 'When it was first used or given';

create table analytics.model_prices (
    model_price_id bigint generated always as identity primary key,
    price_version text not null references analytics.price_versions,
    provider text not null,
    model text not null,
    valid_from timestamptz not null default '-infinity',
    valid_until timestamptz not null default 'infinity' check (valid_until > valid_from),
    daily_from time not null default '00:00',
    daily_until time not null default '24:00' check (daily_until > daily_from),
    input_tokens_from bigint not null default 0 check (input_tokens_from >= 0),
    input_tokens_until bigint check (input_tokens_until > input_tokens_from),
    input_usd numeric not null check (input_usd >= 0),
    output_usd numeric not null check (output_usd >= 0),
    request_usd numeric not null default 0 check (request_usd >= 0),
    unique (price_version, provider, model, valid_from, daily_from, input_tokens_from)
);
comment on table analytics.model_prices is 'Prices of models; the rows of a model in a version do not overlap, so that an event has one price or none';
comment on column analytics.model_prices.model_price_id is 'Price';
comment on column analytics.model_prices.price_version is 'Version that it belongs to';
comment on column analytics.model_prices.provider is 'Provider, as events name it';
comment on column analytics.model_prices.model is 'Model, as events name it';
comment on column analytics.model_prices.valid_from is 'First moment at which it holds';
comment on column analytics.model_prices.valid_until is 'Moment at which it holds no more';
comment on column analytics.model_prices.daily_from is 'Time of day (UTC) from which it holds';
comment on column analytics.model_prices.daily_until is 'Time of day (UTC) at which it holds no more';
comment on column analytics.model_prices.input_tokens_from is 'Input tokens of a request from which it holds';
comment on column analytics.model_prices.input_tokens_until is 'Input tokens of a request from which it holds no more; null: it always does';
comment on column analytics.model_prices.input_usd is 'US dollars per million input tokens';
comment on column analytics.model_prices.output_usd is 'US dollars per million output tokens';
comment on column analytics.model_prices.request_usd is 'US dollars per request, whatever its tokens';

create table analytics.model_lookups (
    price_version text not null references analytics.price_versions,
    provider text not null,
    model text not null,
    priced_as text,
    looked_up_at timestamptz not null default clock_timestamp(),
    primary key (price_version, provider, model)
);
comment on table analytics.model_lookups is 'What the models of events were found as in the package of prices; looked up once a version';
comment on column analytics.model_lookups.price_version is 'Version of the package';
comment on column analytics.model_lookups.provider is 'Provider, as events name it';
comment on column analytics.model_lookups.model is 'Model, as events name it';
comment on column analytics.model_lookups.priced_as is 'provider/model of the package whose prices were taken; null: it knows no price by tokens for it';
comment on column analytics.model_lookups.looked_up_at is 'When it was looked up';

create table analytics.day_prices (
    usage_date date primary key,
    day_start timestamptz not null,
    day_end timestamptz not null check (day_end > day_start),
    price_version text not null references analytics.price_versions,
    pinned_at timestamptz not null default clock_timestamp()
);
create index on analytics.day_prices (day_start);
comment on table analytics.day_prices is 'Price version by which each day is rolled up: the one of its first roll-up, until usage-pipeline recost sets another';
comment on column analytics.day_prices.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.day_prices.day_start is 'First moment of the day';
comment on column analytics.day_prices.day_end is 'Moment after the day';
comment on column analytics.day_prices.price_version is 'Version';
comment on column analytics.day_prices.pinned_at is 'When it was set';

{usage_hourly}
comment on table analytics.usage_hourly is 'Usage per hour, team, service, provider and model; each hour is replaced as a whole from analytics.usage_events';
comment on column analytics.usage_hourly.hour_start is 'First moment of the hour in USAGE_TIMEZONE';

{usage_daily}
comment on table analytics.usage_daily is 'Usage per day, team, service, provider and model; each day is replaced as a whole from analytics.usage_events';
comment on column analytics.usage_daily.usage_date is 'Day in USAGE_TIMEZONE';

{usage_weekly}
comment on table analytics.usage_weekly is 'Usage per week, team, service, provider and model; merged from the daily tables, exactly';
comment on column analytics.usage_weekly.week_start is 'Monday of the week in USAGE_TIMEZONE';

{usage_monthly}
comment on table analytics.usage_monthly is 'Usage per month, team, service, provider and model; merged from the daily tables, exactly';
comment on column analytics.usage_monthly.month_start is 'First day of the month in USAGE_TIMEZONE';

create table analytics.usage_user_daily (
    usage_date date not null,
    team text not null,
    service text not null,
    provider text not null,
    model text not null,
    user_id text not null,
    requests bigint not null,
    errors bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    total_tokens bigint not null,
    cost_usd numeric,
    unpriced_requests bigint not null,
    updated_at timestamptz not null default now(),
    primary key (usage_date, team, service, provider, model, user_id)
);
create index on analytics.usage_user_daily (user_id, usage_date);
comment on table analytics.usage_user_daily is 'Usage per day and user; what days, weeks and months are summed up from, also when the events are archived';
comment on column analytics.usage_user_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.usage_user_daily.team is 'Team that it is charged to';
comment on column analytics.usage_user_daily.service is 'Service that called the model';
comment on column analytics.usage_user_daily.provider is 'Provider of the model';
comment on column analytics.usage_user_daily.model is 'Model, as the client named it';
comment on column analytics.usage_user_daily.user_id is 'User who made the requests';
comment on column analytics.usage_user_daily.requests is 'Requests, all outcomes';
comment on column analytics.usage_user_daily.errors is 'Requests that count as errors (analytics.is_error)';
comment on column analytics.usage_user_daily.input_tokens is 'Tokens of the prompts, as far as the clients said';
comment on column analytics.usage_user_daily.output_tokens is 'Generated tokens, as far as the clients said';
comment on column analytics.usage_user_daily.total_tokens is 'All tokens';
comment on column analytics.usage_user_daily.cost_usd is 'US dollars by the price version of the day (analytics.day_prices); null when no request could be priced';
comment on column analytics.usage_user_daily.unpriced_requests is 'Requests that are not in cost_usd: model without a price, or no split into input and output tokens';
comment on column analytics.usage_user_daily.updated_at is 'When this row last changed';

create table analytics.usage_latency_daily (
    usage_date date not null,
    team text not null,
    service text not null,
    provider text not null,
    model text not null,
    latencies_ms integer[] not null,
    requests bigint[] not null check (cardinality(requests) = cardinality(latencies_ms)),
    updated_at timestamptz not null default now(),
    primary key (usage_date, team, service, provider, model)
);
comment on table analytics.usage_latency_daily is 'Latencies of each day as they are, so that percentiles of longer windows are exact and not averages of percentiles';
comment on column analytics.usage_latency_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.usage_latency_daily.team is 'Team that it is charged to';
comment on column analytics.usage_latency_daily.service is 'Service that called the model';
comment on column analytics.usage_latency_daily.provider is 'Provider of the model';
comment on column analytics.usage_latency_daily.model is 'Model, as the client named it';
comment on column analytics.usage_latency_daily.latencies_ms is 'Latencies that occurred, ascending';
comment on column analytics.usage_latency_daily.requests is 'How many requests had the latency at the same place';
comment on column analytics.usage_latency_daily.updated_at is 'When this row last changed';

create table ops.rolled_windows (
    grain text not null check (grain in ('hour', 'day', 'week', 'month')),
    window_start timestamptz not null,
    rolled_at timestamptz not null,
    rows bigint not null,
    primary key (grain, window_start)
);
comment on table ops.rolled_windows is 'Windows of usage events that were rolled up, empty ones too: a change of one that was closed by then is late data';
comment on column ops.rolled_windows.grain is 'hour, day, week or month in USAGE_TIMEZONE';
comment on column ops.rolled_windows.window_start is 'First moment of the window';
comment on column ops.rolled_windows.rolled_at is 'When it was last rolled up: it contains what was stored by then';
comment on column ops.rolled_windows.rows is 'Rows that it has';

create function analytics.is_only_archived(first timestamptz, until timestamptz) returns boolean
language sql stable parallel safe
return exists (
    select 1
    from ops.archives
    where table_name = 'analytics.usage_events'
      and restored_at is null
      and chunk_start < until
      and chunk_end > first
);
comment on function analytics.is_only_archived is 'Whether events of that time are in an archive and not in the table: a roll-up from the table would lose them';

-- A stale hour and a stored one must never differ in how they are computed, so both come out of this function.
create function analytics.roll_up_events(first timestamptz, until timestamptz, version text)
returns table (
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
language sql stable parallel safe
as $$
    with priced as (
        select
            event.team,
            event.service,
            event.provider,
            event.model,
            event.user_id,
            event.input_tokens,
            event.output_tokens,
            event.total_tokens,
            event.latency_ms,
            analytics.is_error(event.status_code, event.error_type) as is_error,
            (event.input_tokens * price.input_usd + event.output_tokens * price.output_usd) * 0.000001 + price.request_usd as cost_usd
        from analytics.usage_events as event
        left join analytics.model_prices as price
            on price.price_version = version
            and price.provider = event.provider
            and price.model = event.model
            and event.event_time >= price.valid_from
            and event.event_time < price.valid_until
            and (event.event_time at time zone 'UTC')::time >= price.daily_from
            and (event.event_time at time zone 'UTC')::time < price.daily_until
            and event.input_tokens >= price.input_tokens_from
            and (price.input_tokens_until is null or event.input_tokens < price.input_tokens_until)
            and event.output_tokens is not null
        where event.event_time >= first
          and event.event_time < until
    ),
    grouped as (
        select
            priced.team,
            priced.service,
            priced.provider,
            priced.model,
            count(*) as requests,
            count(*) filter (where priced.is_error) as errors,
            analytics.capped(sum(priced.input_tokens)) as input_tokens,
            analytics.capped(sum(priced.output_tokens)) as output_tokens,
            analytics.capped(sum(priced.total_tokens)) as total_tokens,
            percentile_cont(array[0.5, 0.95, 0.99]) within group (order by priced.latency_ms) as latencies,
            count(distinct priced.user_id) as distinct_users,
            trim_scale(sum(priced.cost_usd)) as cost_usd,
            count(*) filter (where priced.cost_usd is null) as unpriced_requests
        from priced
        group by priced.team, priced.service, priced.provider, priced.model
    )
    select
        grouped.team,
        grouped.service,
        grouped.provider,
        grouped.model,
        grouped.requests,
        grouped.errors,
        grouped.input_tokens,
        grouped.output_tokens,
        grouped.total_tokens,
        grouped.latencies[1],
        grouped.latencies[2],
        grouped.latencies[3],
        grouped.distinct_users,
        grouped.cost_usd,
        grouped.unpriced_requests
    from grouped
$$;
comment on function analytics.roll_up_events is 'Usage of the events from `first` to before `until`, at the prices of a version';

create view analytics.usage_hourly_live as
with stale as (
    select distinct window_start as hour_start
    from ops.touched_windows
    where grain = 'hour'
      and not analytics.is_only_archived(window_start, window_start + interval '1 hour')
)
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
    unpriced_requests,
    updated_at
from analytics.usage_hourly as stored
where not exists (select 1 from stale where stale.hour_start = stored.hour_start)
union all
select
    stale.hour_start,
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
    live.unpriced_requests,
    now()
from stale
cross join lateral analytics.roll_up_events(
    stale.hour_start,
    stale.hour_start + interval '1 hour',
    coalesce(
        (
            select price_version
            from analytics.day_prices
            where day_start <= stale.hour_start
              and day_end > stale.hour_start
        ),
        (select price_version from analytics.day_prices order by usage_date desc limit 1)
    )
) as live;
comment on view analytics.usage_hourly_live is 'Usage per hour up to this moment: stored hours, and those that changed since they were stored computed from the events. Hours whose events are archived are as stored';
comment on column analytics.usage_hourly_live.hour_start is 'First moment of the hour in USAGE_TIMEZONE';
comment on column analytics.usage_hourly_live.team is 'Team that it is charged to';
comment on column analytics.usage_hourly_live.service is 'Service that called the model';
comment on column analytics.usage_hourly_live.provider is 'Provider of the model';
comment on column analytics.usage_hourly_live.model is 'Model, as the client named it';
comment on column analytics.usage_hourly_live.requests is 'Requests, all outcomes';
comment on column analytics.usage_hourly_live.errors is 'Requests that count as errors (analytics.is_error)';
comment on column analytics.usage_hourly_live.input_tokens is 'Tokens of the prompts, as far as the clients said';
comment on column analytics.usage_hourly_live.output_tokens is 'Generated tokens, as far as the clients said';
comment on column analytics.usage_hourly_live.total_tokens is 'All tokens';
comment on column analytics.usage_hourly_live.latency_p50_ms is 'Median of latency_ms (percentile_cont over all requests that have one)';
comment on column analytics.usage_hourly_live.latency_p95_ms is '95th percentile of latency_ms (percentile_cont over all requests that have one)';
comment on column analytics.usage_hourly_live.latency_p99_ms is '99th percentile of latency_ms (percentile_cont over all requests that have one)';
comment on column analytics.usage_hourly_live.distinct_users is 'Users among the requests, each once';
comment on column analytics.usage_hourly_live.cost_usd is 'US dollars by the price version of the day (analytics.day_prices); null when no request could be priced';
comment on column analytics.usage_hourly_live.unpriced_requests is 'Requests that are not in cost_usd: model without a price, or no split into input and output tokens; models that are new since the last roll-up count here until the next one';
comment on column analytics.usage_hourly_live.updated_at is 'When this row last changed; now for an hour that is computed';

{usage_by_team}
comment on view reporting.usage_by_team is 'Usage per day and team';
comment on column reporting.usage_by_team.team is 'Team that it is charged to';

{usage_by_service}
comment on view reporting.usage_by_service is 'Usage per day and service';
comment on column reporting.usage_by_service.service is 'Service that called the model';

{usage_by_model}
comment on view reporting.usage_by_model is 'Usage per day, provider and model';
comment on column reporting.usage_by_model.provider is 'Provider of the model';
comment on column reporting.usage_by_model.model is 'Model, as the client named it';

create view reporting.usage_by_user as
select
    usage_date,
    user_id,
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(errors)) as errors,
    analytics.capped(sum(input_tokens)) as input_tokens,
    analytics.capped(sum(output_tokens)) as output_tokens,
    analytics.capped(sum(total_tokens)) as total_tokens,
    sum(cost_usd) as cost_usd,
    analytics.capped(sum(unpriced_requests)) as unpriced_requests
from analytics.usage_user_daily
group by usage_date, user_id;
comment on view reporting.usage_by_user is 'Usage per day and user';
comment on column reporting.usage_by_user.usage_date is 'Day in USAGE_TIMEZONE';
comment on column reporting.usage_by_user.user_id is 'User who made the requests';
comment on column reporting.usage_by_user.requests is 'Requests, all outcomes';
comment on column reporting.usage_by_user.errors is 'Requests that count as errors (analytics.is_error)';
comment on column reporting.usage_by_user.input_tokens is 'Tokens of the prompts, as far as the clients said';
comment on column reporting.usage_by_user.output_tokens is 'Generated tokens, as far as the clients said';
comment on column reporting.usage_by_user.total_tokens is 'All tokens';
comment on column reporting.usage_by_user.cost_usd is 'US dollars by the price version of the day (analytics.day_prices); null when no request could be priced';
comment on column reporting.usage_by_user.unpriced_requests is 'Requests that are not in cost_usd: model without a price, or no split into input and output tokens';

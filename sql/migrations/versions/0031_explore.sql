-- What `GET /api/usage/explore` asks beside the roll-ups that are there: usage by API key, errors by type, users without
-- their models, and latencies by one dimension.

-- Another function cannot have its name, and whoever calls it finds it by name: it has four columns more.
drop function analytics.priced_events;
create function analytics.priced_events(first timestamptz, until timestamptz, version text)
returns table (
    event_id uuid,
    event_time timestamptz,
    team text,
    service text,
    provider text,
    model text,
    user_id text,
    tags jsonb,
    api_key_id text,
    error_type text,
    status_code integer,
    latency_ms integer,
    is_error boolean,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    output_reasoning_tokens bigint,
    input_audio_tokens bigint,
    output_audio_tokens bigint,
    input_image_tokens bigint,
    output_image_tokens bigint,
    unattributed_tokens bigint,
    other_units jsonb,
    model_price_id bigint,
    costs_nothing boolean,
    units_usd numeric,
    list_cost_usd numeric,
    reported_cost_usd numeric
)
language sql stable parallel safe
as $$
    select
        priced.event_id,
        priced.event_time,
        priced.team,
        priced.service,
        priced.provider,
        priced.model,
        priced.user_id,
        priced.tags,
        priced.api_key_id,
        priced.error_type,
        priced.status_code,
        priced.latency_ms,
        priced.is_error,
        priced.input_tokens,
        priced.output_tokens,
        priced.total_tokens,
        priced.cache_read_tokens,
        priced.cache_write_tokens,
        priced.output_reasoning_tokens,
        priced.input_audio_tokens,
        priced.output_audio_tokens,
        priced.input_image_tokens,
        priced.output_image_tokens,
        priced.unattributed_tokens,
        priced.other_units,
        priced.model_price_id,
        priced.costs_nothing,
        priced.units_usd,
        case
            when priced.costs_nothing then 0
            else (
                coalesce(priced.input_tokens, 0) * priced.input_usd
                + coalesce(priced.output_tokens, 0) * priced.output_usd
                + coalesce(priced.cache_read_tokens, 0) * priced.cache_read_usd
                + coalesce(priced.cache_write_tokens, 0) * priced.cache_write_usd
                + coalesce(priced.output_reasoning_tokens, 0) * priced.output_reasoning_usd
                + coalesce(priced.input_audio_tokens, 0) * priced.input_audio_usd
                + coalesce(priced.output_audio_tokens, 0) * priced.output_audio_usd
                + coalesce(priced.input_image_tokens, 0) * priced.input_image_usd
                + coalesce(priced.output_image_tokens, 0) * priced.output_image_usd
            ) * 0.000001
                + priced.request_usd
                + priced.units_usd
        end,
        priced.cost_usd
    from (
        select
            event.*,
            analytics.is_error(event.status_code, event.error_type) as is_error,
            analytics.costs_nothing(event.status_code, event.error_type, event.output_tokens) as costs_nothing,
            price.model_price_id,
            price.input_usd,
            price.output_usd,
            price.cache_read_usd,
            price.cache_write_usd,
            price.output_reasoning_usd,
            price.input_audio_usd,
            price.output_audio_usd,
            price.input_image_usd,
            price.output_image_usd,
            price.request_usd,
            case
                when event.other_units is null then 0
                else (
                    select coalesce(sum(unit.value::numeric * (price.other_usd ->> unit.key)::numeric), 0)
                    from jsonb_each_text(
                        case
                            when price.least_audio_seconds = 0 then event.other_units
                            else analytics.charged_units(event.other_units, price.least_audio_seconds)
                        end
                    ) as unit
                )
            end as units_usd
        from analytics.usage_events as event
        left join analytics.model_prices as price
            on price.price_version = version
            and price.provider = event.provider
            and price.model = event.model
            and price.service_tier = coalesce(event.service_tier, '')
            and event.event_time >= price.valid_from
            and event.event_time < price.valid_until
            and (event.event_time at time zone 'UTC')::time >= price.daily_from
            and (event.event_time at time zone 'UTC')::time < price.daily_until
            and coalesce(event.input_tokens, 0) >= price.input_tokens_from
            and (price.input_tokens_until is null or coalesce(event.input_tokens, 0) < price.input_tokens_until)
            -- What is not known is no zero: it matters where it has a price, and input also where it chooses the price.
            and (
                event.input_tokens is not null
                or event.total_tokens = event.output_tokens
                or (price.input_usd = 0 and price.input_tokens_until is null)
            )
            and (event.output_tokens is not null or event.total_tokens = event.input_tokens or price.output_usd = 0)
            and (
                event.other_units is null
                or not event.other_units @? '$.* ? (@ == null)'
                or not exists (
                    select
                    from jsonb_each(event.other_units) as unit
                    where unit.value = 'null'
                      and (price.other_usd ->> unit.key)::numeric <> 0
                )
            )
            and (
                price.any_of is null
                or event.other_units ?| price.any_of
                or array[
                    case when event.cache_read_tokens is not null then 'cache_read_tokens' end,
                    case when event.cache_write_tokens is not null then 'cache_write_tokens' end,
                    case when event.output_reasoning_tokens is not null then 'output_reasoning_tokens' end,
                    case when event.input_audio_tokens is not null then 'input_audio_tokens' end,
                    case when event.output_audio_tokens is not null then 'output_audio_tokens' end,
                    case when event.input_image_tokens is not null then 'input_image_tokens' end,
                    case when event.output_image_tokens is not null then 'output_image_tokens' end
                ] && price.any_of
            )
        where event.event_time >= first
          and event.event_time < until
    ) as priced
$$;
comment on function analytics.priced_events is 'Events from `first` to before `until` with their price of a version. No model_price_id: no price is known, or the usage that it is for is not';

create table analytics.usage_api_key_daily (
    usage_date date not null,
    team text not null,
    service text not null,
    provider text not null,
    model text not null,
    api_key_id text not null,
    requests bigint not null,
    errors bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    total_tokens bigint not null,
    cache_read_tokens bigint not null,
    cache_write_tokens bigint not null,
    output_reasoning_tokens bigint not null,
    input_audio_tokens bigint not null,
    output_audio_tokens bigint not null,
    input_image_tokens bigint not null,
    output_image_tokens bigint not null,
    unattributed_tokens bigint not null,
    other_units jsonb,
    cost_usd numeric,
    list_cost_usd numeric,
    reported_cost_usd numeric,
    reported_requests bigint not null,
    unpriced_requests bigint not null,
    unlisted_requests bigint not null,
    updated_at timestamptz not null default now()
);
create unique index usage_api_key_daily_group_idx on analytics.usage_api_key_daily
    (usage_date, analytics.group_key(team, service, provider, model), api_key_id);
comment on table analytics.usage_api_key_daily is 'Usage per day and group by the API key of the events; replaced with its day. Counters of keys are another thing: usage.api_key_daily';
comment on column analytics.usage_api_key_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.usage_api_key_daily.team is 'Team that it is charged to';
comment on column analytics.usage_api_key_daily.service is 'Service that sent it';
comment on column analytics.usage_api_key_daily.provider is 'Provider of the model';
comment on column analytics.usage_api_key_daily.model is 'Model, as the client named it';
comment on column analytics.usage_api_key_daily.api_key_id is 'API key that made the requests; empty where nobody said it';
comment on column analytics.usage_api_key_daily.requests is 'Requests, all outcomes';
comment on column analytics.usage_api_key_daily.errors is 'Requests that count as errors (analytics.is_error)';
comment on column analytics.usage_api_key_daily.input_tokens is 'Tokens of the prompts, cached, audio and image ones among them, as far as the clients said';
comment on column analytics.usage_api_key_daily.output_tokens is 'Generated tokens, reasoning, audio and image ones among them, as far as the clients said';
comment on column analytics.usage_api_key_daily.total_tokens is 'All tokens';
comment on column analytics.usage_api_key_daily.cache_read_tokens is 'Of input_tokens, those that providers read from their caches';
comment on column analytics.usage_api_key_daily.cache_write_tokens is 'Of input_tokens, those that providers wrote to their caches';
comment on column analytics.usage_api_key_daily.output_reasoning_tokens is 'Of output_tokens, thoughts that are not in the answers';
comment on column analytics.usage_api_key_daily.input_audio_tokens is 'Of input_tokens, those of audio';
comment on column analytics.usage_api_key_daily.output_audio_tokens is 'Of output_tokens, those of audio';
comment on column analytics.usage_api_key_daily.input_image_tokens is 'Of input_tokens, those of images';
comment on column analytics.usage_api_key_daily.output_image_tokens is 'Of output_tokens, those of images';
comment on column analytics.usage_api_key_daily.unattributed_tokens is 'Tokens of total_tokens that clients told neither as input nor as output';
comment on column analytics.usage_api_key_daily.other_units is 'Sums of the units that have no column of their own, by their names in the price package; null: none';
comment on column analytics.usage_api_key_daily.cost_usd is 'US dollars: per request what the sender was charged, or else the list price; null when neither is known of any request';
comment on column analytics.usage_api_key_daily.list_cost_usd is 'US dollars by the price version of the day (analytics.day_prices), over all requests; null when no request could be priced';
comment on column analytics.usage_api_key_daily.reported_cost_usd is 'US dollars that senders say they were charged; null when none said';
comment on column analytics.usage_api_key_daily.reported_requests is 'Requests that are in reported_cost_usd';
comment on column analytics.usage_api_key_daily.unpriced_requests is 'Requests that are not in cost_usd: nobody said what was charged, and no price is known for their model, or their usage is not known; a failed request without output costs 0';
comment on column analytics.usage_api_key_daily.unlisted_requests is 'Requests that are not in list_cost_usd';
comment on column analytics.usage_api_key_daily.updated_at is 'When this row last changed';
create table analytics.usage_api_key_daily_kept (like analytics.usage_api_key_daily including defaults including comments);
create index on analytics.usage_api_key_daily_kept (usage_date);
comment on table analytics.usage_api_key_daily_kept is 'What dropped events add to the API keys of a day (ops.kept_windows); only for days that also have other events';

create table analytics.usage_error_daily (
    usage_date date not null,
    team text not null,
    service text not null,
    provider text not null,
    model text not null,
    error_type text not null,
    status_code integer not null,
    errors bigint not null,
    updated_at timestamptz not null default now()
);
create unique index usage_error_daily_group_idx on analytics.usage_error_daily
    (usage_date, analytics.group_key(team, service, provider, model), error_type, status_code);
comment on table analytics.usage_error_daily is 'Errors per day and group by their type and status; replaced with its day';
comment on column analytics.usage_error_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.usage_error_daily.team is 'Team that it is charged to';
comment on column analytics.usage_error_daily.service is 'Service that sent it';
comment on column analytics.usage_error_daily.provider is 'Provider of the model';
comment on column analytics.usage_error_daily.model is 'Model, as the client named it';
comment on column analytics.usage_error_daily.error_type is 'Kind of error, as the sender named it; empty where it did not';
comment on column analytics.usage_error_daily.status_code is 'HTTP status of the requests; 0 where nobody said it';
comment on column analytics.usage_error_daily.errors is 'Requests that count as errors (analytics.is_error)';
comment on column analytics.usage_error_daily.updated_at is 'When this row last changed';
create table analytics.usage_error_daily_kept (like analytics.usage_error_daily including defaults including comments);
create index on analytics.usage_error_daily_kept (usage_date);
comment on table analytics.usage_error_daily_kept is 'What dropped events add to the errors of a day (ops.kept_windows); only for days that also have other events';

create table analytics.usage_user_team_daily (
    usage_date date not null,
    team text not null,
    user_id text not null,
    requests bigint not null,
    errors bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    total_tokens bigint not null,
    cache_read_tokens bigint not null,
    cache_write_tokens bigint not null,
    output_reasoning_tokens bigint not null,
    input_audio_tokens bigint not null,
    output_audio_tokens bigint not null,
    input_image_tokens bigint not null,
    output_image_tokens bigint not null,
    unattributed_tokens bigint not null,
    cost_usd numeric,
    list_cost_usd numeric,
    reported_cost_usd numeric,
    reported_requests bigint not null,
    unpriced_requests bigint not null,
    unlisted_requests bigint not null,
    updated_at timestamptz not null default now()
);
create unique index usage_user_team_daily_key on analytics.usage_user_team_daily (usage_date, team, user_id);
create index on analytics.usage_user_team_daily (user_id, usage_date);
comment on table analytics.usage_user_team_daily is 'Sums of analytics.usage_user_daily per day, team and user: a tenth of the rows, for questions over many days; replaced with its day';
comment on column analytics.usage_user_team_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.usage_user_team_daily.team is 'Team that it is charged to';
comment on column analytics.usage_user_team_daily.user_id is 'User; unknown where nobody said it';
comment on column analytics.usage_user_team_daily.requests is 'Requests, all outcomes';
comment on column analytics.usage_user_team_daily.errors is 'Requests that count as errors (analytics.is_error)';
comment on column analytics.usage_user_team_daily.input_tokens is 'Tokens of the prompts, cached, audio and image ones among them, as far as the clients said';
comment on column analytics.usage_user_team_daily.output_tokens is 'Generated tokens, reasoning, audio and image ones among them, as far as the clients said';
comment on column analytics.usage_user_team_daily.total_tokens is 'All tokens';
comment on column analytics.usage_user_team_daily.cache_read_tokens is 'Of input_tokens, those that providers read from their caches';
comment on column analytics.usage_user_team_daily.cache_write_tokens is 'Of input_tokens, those that providers wrote to their caches';
comment on column analytics.usage_user_team_daily.output_reasoning_tokens is 'Of output_tokens, thoughts that are not in the answers';
comment on column analytics.usage_user_team_daily.input_audio_tokens is 'Of input_tokens, those of audio';
comment on column analytics.usage_user_team_daily.output_audio_tokens is 'Of output_tokens, those of audio';
comment on column analytics.usage_user_team_daily.input_image_tokens is 'Of input_tokens, those of images';
comment on column analytics.usage_user_team_daily.output_image_tokens is 'Of output_tokens, those of images';
comment on column analytics.usage_user_team_daily.unattributed_tokens is 'Tokens of total_tokens that clients told neither as input nor as output';
comment on column analytics.usage_user_team_daily.cost_usd is 'US dollars: per request what the sender was charged, or else the list price; null when neither is known of any request';
comment on column analytics.usage_user_team_daily.list_cost_usd is 'US dollars by the price version of the day (analytics.day_prices), over all requests; null when no request could be priced';
comment on column analytics.usage_user_team_daily.reported_cost_usd is 'US dollars that senders say they were charged; null when none said';
comment on column analytics.usage_user_team_daily.reported_requests is 'Requests that are in reported_cost_usd';
comment on column analytics.usage_user_team_daily.unpriced_requests is 'Requests that are not in cost_usd: nobody said what was charged, and no price is known for their model, or their usage is not known; a failed request without output costs 0';
comment on column analytics.usage_user_team_daily.unlisted_requests is 'Requests that are not in list_cost_usd';
comment on column analytics.usage_user_team_daily.updated_at is 'When this row last changed';
insert into analytics.usage_user_team_daily (usage_date, team, user_id, requests, errors, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_write_tokens, output_reasoning_tokens, input_audio_tokens, output_audio_tokens, input_image_tokens, output_image_tokens, unattributed_tokens, cost_usd, list_cost_usd, reported_cost_usd, reported_requests, unpriced_requests, unlisted_requests)
select usage_date, team, user_id, sum(requests)::bigint, sum(errors)::bigint, analytics.capped(sum(input_tokens)), analytics.capped(sum(output_tokens)), analytics.capped(sum(total_tokens)), analytics.capped(sum(cache_read_tokens)), analytics.capped(sum(cache_write_tokens)), analytics.capped(sum(output_reasoning_tokens)), analytics.capped(sum(input_audio_tokens)), analytics.capped(sum(output_audio_tokens)), analytics.capped(sum(input_image_tokens)), analytics.capped(sum(output_image_tokens)), analytics.capped(sum(unattributed_tokens)), trim_scale(sum(cost_usd)), trim_scale(sum(list_cost_usd)), trim_scale(sum(reported_cost_usd)), sum(reported_requests)::bigint, sum(unpriced_requests)::bigint, sum(unlisted_requests)::bigint
from analytics.usage_user_daily
group by usage_date, team, user_id;

create table analytics.usage_latency_dimension_daily (
    usage_date date not null,
    dimension text not null check (dimension in ('all', 'team', 'service', 'provider', 'model')),
    value text not null,
    latencies_ms integer[] not null,
    requests bigint[] not null,
    updated_at timestamptz not null default now()
);
create unique index usage_latency_dimension_daily_key on analytics.usage_latency_dimension_daily (usage_date, dimension, value);
comment on table analytics.usage_latency_dimension_daily is 'Latencies of analytics.usage_latency_daily per day and value of one dimension, and of all: percentiles of them are found in a fraction of the counts; replaced with its day';
comment on column analytics.usage_latency_dimension_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.usage_latency_dimension_daily.dimension is 'team, service, provider, model, or all';
comment on column analytics.usage_latency_dimension_daily.value is 'Value of the dimension; empty for all';
comment on column analytics.usage_latency_dimension_daily.latencies_ms is 'Each latency in milliseconds, once, ascending';
comment on column analytics.usage_latency_dimension_daily.requests is 'How many requests took each of them';
comment on column analytics.usage_latency_dimension_daily.updated_at is 'When this row last changed';
insert into analytics.usage_latency_dimension_daily (usage_date, dimension, value, latencies_ms, requests)
with each as (
    select usage_date, team, service, provider, model, counts.latency_ms, counts.requests
    from analytics.usage_latency_daily as daily
    cross join unnest(daily.latencies_ms, daily.requests) as counts (latency_ms, requests)
),
counted as (
    select
        usage_date, case grouping(team, service, provider, model)
            when 15 then 'all'
            when 7 then 'team'
            when 11 then 'service'
            when 13 then 'provider'
            when 14 then 'model'
        end as dimension,
        coalesce(team, service, provider, model, '') as value,
        latency_ms,
        sum(requests)::bigint as requests
    from each
    group by grouping sets (
        (usage_date, latency_ms),
        (usage_date, team, latency_ms),
        (usage_date, service, latency_ms),
        (usage_date, provider, latency_ms),
        (usage_date, model, latency_ms)
    )
)
select
    usage_date,
    dimension,
    value,
    array_agg(latency_ms order by latency_ms),
    array_agg(requests order by latency_ms)
from counted
group by usage_date, dimension, value;

-- The days whose events are still there get their keys and errors: they are made again by themselves.
insert into ops.touched_windows (grain, window_start)
select 'day', rolled.window_start
from ops.rolled_windows as rolled
where rolled.grain = 'day'
  and exists (
    select 1
    from analytics.usage_events
    where event_time >= rolled.window_start
      and event_time < rolled.window_start + interval '1 day'
  );

-- The HTTP service shows single requests, and reads neither prices nor prompts itself.
create function ops.request_costs(first timestamptz, until timestamptz, ids uuid[])
returns table (event_id uuid, list_cost_usd numeric)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select priced.event_id, trim_scale(priced.list_cost_usd)
    from analytics.priced_events(
        first,
        until,
        coalesce(
            (
                select price_version
                from analytics.day_prices
                where day_start <= first
                  and day_end > first
            ),
            (select price_version from analytics.day_prices order by usage_date desc limit 1)
        )
    ) as priced
    where priced.event_id = any(ids)
$$;
revoke execute on function ops.request_costs from public;
comment on function ops.request_costs is 'What requests of one day cost by the list, in the prices of their day, or of the newest one that has any; null: no price is known';

create function ops.request_prompts(caller text, first timestamptz, until timestamptz, ids uuid[])
returns table (event_id uuid, prompt text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select event.event_id, left(event.prompt, 10000)
    from analytics.usage_events as event
    where event.event_time >= first
      and event.event_time < until
      and event.event_id = any(ids)
      and exists (
        select 1
        from usage.api_access_tokens as token
        where token.token_id = caller
          and 'prompts' = any(token.scopes)
          and token.revoked_at is null
          and (token.expires_at is null or token.expires_at > now())
    )
$$;
revoke execute on function ops.request_prompts from public;
comment on function ops.request_prompts is 'Prompts of requests, their first 10,000 characters, for a valid token that has the scope prompts; for others none';

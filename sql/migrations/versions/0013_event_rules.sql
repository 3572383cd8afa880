-- Roll-ups of usage events take names of any width; empty texts, counts of one kind and failed requests mean what the contracts say.

-- A row of an index has at most 2.7 KB, and five names of 200 characters have up to 4 KB: one such event failed the roll-up of
-- everybody. So the keys hold a digest of the names. SHA-256, since for MD5 a sender could make two groups of one digest.
-- A name is preceded by its length: so two groups whose names end elsewhere differ. Escapes make bytea take a text as it is;
-- convert_to() would do so, too, but is not immutable, as an index needs it.
create function analytics.group_key(team text, service text, provider text, model text) returns bytea
language sql immutable strict parallel safe
return sha256(decode(
    replace(
        length(team)::text || ':' || team || length(service)::text || ':' || service
            || length(provider)::text || ':' || provider || model,
        '\', '\\'
    ),
    'escape'
));
comment on function analytics.group_key is 'SHA-256 of the names of a group, each with its length: the keys of roll-ups hold it, since the names may be too long for an index';

create unique index usage_hourly_group_idx on analytics.usage_hourly
    (hour_start, analytics.group_key(team, service, provider, model));
create unique index usage_daily_group_idx on analytics.usage_daily
    (usage_date, analytics.group_key(team, service, provider, model));
create unique index usage_weekly_group_idx on analytics.usage_weekly
    (week_start, analytics.group_key(team, service, provider, model));
create unique index usage_monthly_group_idx on analytics.usage_monthly
    (month_start, analytics.group_key(team, service, provider, model));
create unique index usage_latency_daily_group_idx on analytics.usage_latency_daily
    (usage_date, analytics.group_key(team, service, provider, model));
create unique index usage_user_daily_group_idx on analytics.usage_user_daily
    (usage_date, analytics.group_key(team, service, provider, model), user_id);

alter table analytics.usage_hourly drop constraint usage_hourly_pkey;
alter table analytics.usage_daily drop constraint usage_daily_pkey;
alter table analytics.usage_weekly drop constraint usage_weekly_pkey;
alter table analytics.usage_monthly drop constraint usage_monthly_pkey;
alter table analytics.usage_latency_daily drop constraint usage_latency_daily_pkey;
alter table analytics.usage_user_daily drop constraint usage_user_daily_pkey;

-- An empty text is the same as none. And a price is unknown only where it is needed: a request that failed without output costs
-- nothing, and a request of which only one count is known is priced by that one if it is all of its tokens.

create or replace function analytics.is_error(status_code integer, error_type text) returns boolean
language sql immutable parallel safe
return coalesce(error_type, '') <> '' or coalesce(status_code, 0) >= 400;

create function analytics.costs_nothing(status_code integer, error_type text, output_tokens bigint) returns boolean
language sql immutable parallel safe
return coalesce(output_tokens, 0) = 0 and analytics.is_error(status_code, error_type);
comment on function analytics.costs_nothing is 'Whether a request costs nothing, whatever its model: it failed without output';

create or replace function analytics.roll_up_events(first timestamptz, until timestamptz, version text)
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
            case
                when analytics.costs_nothing(event.status_code, event.error_type, event.output_tokens) then 0
                else (coalesce(event.input_tokens, 0) * price.input_usd + coalesce(event.output_tokens, 0) * price.output_usd)
                    * 0.000001 + price.request_usd
            end as cost_usd
        from analytics.usage_events as event
        left join analytics.model_prices as price
            on price.price_version = version
            and price.provider = event.provider
            and price.model = event.model
            and event.event_time >= price.valid_from
            and event.event_time < price.valid_until
            and (event.event_time at time zone 'UTC')::time >= price.daily_from
            and (event.event_time at time zone 'UTC')::time < price.daily_until
            and coalesce(event.input_tokens, 0) >= price.input_tokens_from
            and (price.input_tokens_until is null or coalesce(event.input_tokens, 0) < price.input_tokens_until)
            and (
                event.input_tokens is not null
                or event.total_tokens = event.output_tokens
                or (price.input_usd = 0 and price.input_tokens_until is null)
            )
            and (event.output_tokens is not null or event.total_tokens = event.input_tokens or price.output_usd = 0)
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

do $$
declare
    counted record;
begin
    for counted in
        select quote_ident(nspname) || '.' || quote_ident(relname) as relation, col_description(attrelid, attnum) as described
        from pg_attribute
        join pg_class on pg_class.oid = attrelid
        join pg_namespace on pg_namespace.oid = relnamespace
        where attname = 'unpriced_requests'
          and nspname in ('analytics', 'reporting')
          and relkind in ('r', 'p', 'v', 'm')
    loop
        execute 'comment on column ' || counted.relation || '.unpriced_requests is ' || quote_literal(
            'Requests that are not in cost_usd: no price is known for their model, or their tokens are not known; a failed request '
                || 'without output costs 0' || coalesce(substring(counted.described from ';.*'), '')
        );
    end loop;
end
$$;
comment on column analytics.usage_events.total_tokens is 'All tokens: as given, or the sum of input and output, or the one of them that is given';

-- What was stored before. Rows are mended, and windows whose numbers are others by the rules above are made again.

create function analytics.mend_events(first timestamptz, until timestamptz) returns void
language sql
as $$
    with hours as (
        select distinct date_trunc('hour', event_time, calendar.time_zone) as hour, calendar.time_zone
        from analytics.usage_events
        cross join ops.calendar
        where event_time >= first
          and event_time < until
          and (
            error_type = ''
            or (input_tokens is null) <> (output_tokens is null)
            or analytics.costs_nothing(status_code, error_type, output_tokens)
          )
    )
    insert into ops.touched_windows (grain, window_start)
    select 'hour', hour from hours
    union all
    select distinct 'day', date_trunc('day', hour, time_zone) from hours;

    update analytics.usage_events
    set error_type = nullif(error_type, ''),
        prompt = nullif(prompt, ''),
        total_tokens = case
            when total_tokens = 0 then coalesce(input_tokens, 0) + coalesce(output_tokens, 0)
            else total_tokens
        end
    where event_time >= first
      and event_time < until
      and (
        error_type = ''
        or prompt = ''
        or (total_tokens = 0 and coalesce(input_tokens, 0) + coalesce(output_tokens, 0) > 0)
      );
$$;
comment on function analytics.mend_events is 'Events from `first` to before `until` as migration 0013 has them: no empty texts, a total where one count is given; their windows are touched';

create function analytics.mend_message_archives(first timestamptz, until timestamptz) returns void
language sql
as $$
    update analytics.message_archives
    set prompt_full = nullif(prompt_full, ''),
        response_full = nullif(response_full, '')
    where event_time >= first
      and event_time < until
      and (prompt_full = '' or response_full = '');
$$;
comment on function analytics.mend_message_archives is 'Message archives from `first` to before `until` as migration 0013 has them: no empty texts';

alter table ops.archives add column has_old_rules boolean not null default true;
alter table ops.archives alter column has_old_rules set default false;
comment on column ops.archives.has_old_rules is 'Whether its rows are from before migration 0013: they are mended when they are read back, and their windows are made again';

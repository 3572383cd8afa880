-- Roll-ups with all that is counted and three costs: what they are computed with, and the views over them.
-- Views are replaced and not dropped: so the grants on them stay, and what others made over them. New columns come last.

-- Rows are gathered and summed up at the end, and what is alone is its own sum: a query for each row or group takes longer than
-- all the rest of a roll-up. STRICT: nothing is called for groups without units.
create function analytics.units_of_all(each_units jsonb[]) returns jsonb
language plpgsql immutable strict parallel safe
as $$
begin
    if cardinality(each_units) = 1 then
        return nullif(jsonb_strip_nulls(each_units[1]), '{}');
    end if;
    return (
        select jsonb_object_agg(name, count)
        from (
            select unit.key as name, trim_scale(sum(unit.value::numeric)) as count
            from unnest(each_units) as one (units)
            cross join jsonb_each_text(one.units) as unit
            where unit.value is not null
            group by unit.key
        ) as summed
    );
end
$$;
comment on function analytics.units_of_all is 'Sums by unit of objects that have counts by unit; counts that are not known are left out. Null: there are none';

create aggregate analytics.sum_units(jsonb) (
    sfunc = array_append,
    stype = jsonb[],
    combinefunc = array_cat,
    finalfunc = analytics.units_of_all,
    parallel = safe
);
comment on aggregate analytics.sum_units(jsonb) is 'Sums by unit; a filter that leaves out rows without units saves their gathering';

-- What is charged at least holds for both names of the seconds, which are of the same audio.
create function analytics.charged_units(other_units jsonb, least_audio_seconds numeric) returns jsonb
language sql immutable strict parallel safe
return (
    select other_units || case
        when told.seconds > 0 then jsonb_build_object(
            'audio_seconds', greatest(told.seconds, least_audio_seconds),
            'input_audio_seconds', greatest(told.seconds, least_audio_seconds)
        )
        else '{}'
    end
    from (
        select coalesce(
            nullif((other_units ->> 'audio_seconds')::numeric, 0), (other_units ->> 'input_audio_seconds')::numeric
        ) as seconds
    ) as told
);
comment on function analytics.charged_units is 'The units that are charged for these, where at least so many seconds of audio are';

-- The only place where an event meets its price. It is put into the query that uses it, and columns that are not asked for cost
-- nothing: it must stay a single SELECT, and neither STRICT nor VOLATILE.
create function analytics.priced_events(first timestamptz, until timestamptz, version text)
returns table (
    event_time timestamptz,
    team text,
    service text,
    provider text,
    model text,
    user_id text,
    tags jsonb,
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
        priced.event_time,
        priced.team,
        priced.service,
        priced.provider,
        priced.model,
        priced.user_id,
        priced.tags,
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

-- A function cannot get other columns, and the view is not dropped: the view moves from the earlier one to its successor.
alter function analytics.roll_up_events rename to earlier_roll_up_events;
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
    unpriced_requests bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    output_reasoning_tokens bigint,
    input_audio_tokens bigint,
    output_audio_tokens bigint,
    input_image_tokens bigint,
    output_image_tokens bigint,
    unattributed_tokens bigint,
    other_units jsonb,
    list_cost_usd numeric,
    reported_cost_usd numeric,
    reported_requests bigint,
    unlisted_requests bigint
)
language sql stable parallel safe
as $$
    with grouped as (
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
            analytics.capped(sum(priced.cache_read_tokens)) as cache_read_tokens,
            analytics.capped(sum(priced.cache_write_tokens)) as cache_write_tokens,
            analytics.capped(sum(priced.output_reasoning_tokens)) as output_reasoning_tokens,
            analytics.capped(sum(priced.input_audio_tokens)) as input_audio_tokens,
            analytics.capped(sum(priced.output_audio_tokens)) as output_audio_tokens,
            analytics.capped(sum(priced.input_image_tokens)) as input_image_tokens,
            analytics.capped(sum(priced.output_image_tokens)) as output_image_tokens,
            analytics.capped(sum(priced.unattributed_tokens)) as unattributed_tokens,
            analytics.sum_units(priced.other_units) filter (where priced.other_units is not null) as other_units,
            percentile_cont(array[0.5, 0.95, 0.99]) within group (order by priced.latency_ms) as latencies,
            count(distinct priced.user_id) as distinct_users,
            trim_scale(round(sum(coalesce(priced.reported_cost_usd, priced.list_cost_usd)), 20)) as cost_usd,
            trim_scale(round(sum(priced.list_cost_usd), 20)) as list_cost_usd,
            trim_scale(sum(priced.reported_cost_usd)) as reported_cost_usd,
            count(priced.reported_cost_usd) as reported_requests,
            count(*) filter (where coalesce(priced.reported_cost_usd, priced.list_cost_usd) is null) as unpriced_requests,
            count(*) filter (where priced.list_cost_usd is null) as unlisted_requests
        from analytics.priced_events(first, until, version) as priced
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
        grouped.unpriced_requests,
        grouped.cache_read_tokens,
        grouped.cache_write_tokens,
        grouped.output_reasoning_tokens,
        grouped.input_audio_tokens,
        grouped.output_audio_tokens,
        grouped.input_image_tokens,
        grouped.output_image_tokens,
        grouped.unattributed_tokens,
        grouped.other_units,
        grouped.list_cost_usd,
        grouped.reported_cost_usd,
        grouped.reported_requests,
        grouped.unlisted_requests
    from grouped
$$;
comment on function analytics.roll_up_events is 'Usage of the events from `first` to before `until`, at the prices of a version';

create or replace view analytics.usage_hourly_live as
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
    updated_at,
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
    now(),
    live.cache_read_tokens,
    live.cache_write_tokens,
    live.output_reasoning_tokens,
    live.input_audio_tokens,
    live.output_audio_tokens,
    live.input_image_tokens,
    live.output_image_tokens,
    live.unattributed_tokens,
    live.other_units,
    live.list_cost_usd,
    live.reported_cost_usd,
    live.reported_requests,
    live.unlisted_requests
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
drop function analytics.earlier_roll_up_events;

alter function analytics.changed_hours rename to earlier_changed_hours;
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
    unpriced_requests bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    output_reasoning_tokens bigint,
    input_audio_tokens bigint,
    output_audio_tokens bigint,
    input_image_tokens bigint,
    output_image_tokens bigint,
    unattributed_tokens bigint,
    other_units jsonb,
    list_cost_usd numeric,
    reported_cost_usd numeric,
    reported_requests bigint,
    unlisted_requests bigint
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
        live.unpriced_requests,
        live.cache_read_tokens,
        live.cache_write_tokens,
        live.output_reasoning_tokens,
        live.input_audio_tokens,
        live.output_audio_tokens,
        live.input_image_tokens,
        live.output_image_tokens,
        live.unattributed_tokens,
        live.other_units,
        live.list_cost_usd,
        live.reported_cost_usd,
        live.reported_requests,
        live.unlisted_requests
    from analytics.usage_hourly_live as live
    where live.hour_start in (select window_start from ops.touched_windows where grain = 'hour')
$$;
revoke execute on function analytics.changed_hours from public;
comment on function analytics.changed_hours is 'Usage of the hours whose events changed since they were rolled up, counted now, with the rights of the owner, so that reporting.usage_by_hour can show it to those who may not read events';

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
    latency_p50_ms,
    latency_p95_ms,
    latency_p99_ms,
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
    latency_p50_ms,
    latency_p95_ms,
    latency_p99_ms,
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
drop function analytics.earlier_changed_hours;

create or replace view reporting.usage_by_user as
select
    usage_date,
    user_id,
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(errors)) as errors,
    analytics.capped(sum(input_tokens)) as input_tokens,
    analytics.capped(sum(output_tokens)) as output_tokens,
    analytics.capped(sum(total_tokens)) as total_tokens,
    sum(cost_usd) as cost_usd,
    analytics.capped(sum(unpriced_requests)) as unpriced_requests,
    sum(list_cost_usd) as list_cost_usd,
    sum(reported_cost_usd) as reported_cost_usd,
    analytics.capped(sum(reported_requests)) as reported_requests,
    analytics.capped(sum(unlisted_requests)) as unlisted_requests,
    analytics.capped(sum(cache_read_tokens)) as cache_read_tokens,
    analytics.capped(sum(cache_write_tokens)) as cache_write_tokens,
    analytics.capped(sum(output_reasoning_tokens)) as output_reasoning_tokens,
    analytics.capped(sum(input_audio_tokens)) as input_audio_tokens,
    analytics.capped(sum(output_audio_tokens)) as output_audio_tokens,
    analytics.capped(sum(input_image_tokens)) as input_image_tokens,
    analytics.capped(sum(output_image_tokens)) as output_image_tokens,
    analytics.capped(sum(unattributed_tokens)) as unattributed_tokens,
    analytics.sum_units(other_units) filter (where other_units is not null) as other_units
from analytics.usage_user_daily
group by usage_date, user_id;

create table analytics.usage_tag_daily (
    usage_date date not null,
    tag text not null,
    value text not null,
    is_rest boolean not null,
    team text not null,
    provider text not null,
    model text not null,
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
create unique index usage_tag_daily_group_idx on analytics.usage_tag_daily
    (usage_date, tag, is_rest, analytics.group_key(value, team, provider, model));
comment on table analytics.usage_tag_daily is 'Usage per day, tag and value, team, provider and model, for the tags of ROLLUP_TAGS; replaced with its day. Requests without the tag are not in it';
comment on column analytics.usage_tag_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column analytics.usage_tag_daily.tag is 'Name of the tag, one of ROLLUP_TAGS';
comment on column analytics.usage_tag_daily.value is 'Value of the tag; other where is_rest';
comment on column analytics.usage_tag_daily.is_rest is 'Whether it is all values beyond those with the most requests of the day, together';
comment on column analytics.usage_tag_daily.team is 'Team that it is charged to';
comment on column analytics.usage_tag_daily.provider is 'Provider of the model';
comment on column analytics.usage_tag_daily.model is 'Model, as the client named it';
comment on column analytics.usage_tag_daily.requests is 'Requests with the tag, all outcomes';
comment on column analytics.usage_tag_daily.errors is 'Requests that count as errors (analytics.is_error)';
comment on column analytics.usage_tag_daily.input_tokens is 'Tokens of the prompts, cached, audio and image ones among them, as far as the clients said';
comment on column analytics.usage_tag_daily.output_tokens is 'Generated tokens, reasoning, audio and image ones among them, as far as the clients said';
comment on column analytics.usage_tag_daily.total_tokens is 'All tokens';
comment on column analytics.usage_tag_daily.cache_read_tokens is 'Of input_tokens, those that providers read from their caches';
comment on column analytics.usage_tag_daily.cache_write_tokens is 'Of input_tokens, those that providers wrote to their caches';
comment on column analytics.usage_tag_daily.output_reasoning_tokens is 'Of output_tokens, thoughts that are not in the answers';
comment on column analytics.usage_tag_daily.input_audio_tokens is 'Of input_tokens, those of audio';
comment on column analytics.usage_tag_daily.output_audio_tokens is 'Of output_tokens, those of audio';
comment on column analytics.usage_tag_daily.input_image_tokens is 'Of input_tokens, those of images';
comment on column analytics.usage_tag_daily.output_image_tokens is 'Of output_tokens, those of images';
comment on column analytics.usage_tag_daily.unattributed_tokens is 'Tokens of total_tokens that clients told neither as input nor as output';
comment on column analytics.usage_tag_daily.other_units is 'Sums of the units that have no column of their own, by their names in the price package; null: none';
comment on column analytics.usage_tag_daily.cost_usd is 'US dollars: per request what the sender was charged, or else the list price; null when neither is known of any request';
comment on column analytics.usage_tag_daily.list_cost_usd is 'US dollars by the price version of the day (analytics.day_prices), over all requests; null when no request could be priced';
comment on column analytics.usage_tag_daily.reported_cost_usd is 'US dollars that senders say they were charged; null when none said';
comment on column analytics.usage_tag_daily.reported_requests is 'Requests that are in reported_cost_usd';
comment on column analytics.usage_tag_daily.unpriced_requests is 'Requests that are not in cost_usd: nobody said what was charged, and no price is known for their model, or their usage is not known; a failed request without output costs 0';
comment on column analytics.usage_tag_daily.unlisted_requests is 'Requests that are not in list_cost_usd';
comment on column analytics.usage_tag_daily.updated_at is 'When this row last changed';

create table analytics.usage_tag_daily_kept (like analytics.usage_tag_daily including defaults including comments);
create index on analytics.usage_tag_daily_kept (usage_date);
comment on table analytics.usage_tag_daily_kept is 'What dropped events add to the tags of a day (ops.kept_windows); only for days that also have other events';

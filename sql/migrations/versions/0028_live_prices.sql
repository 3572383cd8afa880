-- The live view prices a day that was never rolled up as its first roll-up would. Nothing else of the view changes.
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
        -- A roll-up would take the installed package with the newest own prices. That of the newest day may be older, by a
        -- recost or since an import.
        (
            select version.price_version
            from analytics.price_versions as version
            where version.source = 'genai-prices'
              and version.own_version is not distinct from (select max(own_version) from analytics.own_price_versions)
            order by version.added_at desc
            limit 1
        ),
        (select price_version from analytics.day_prices order by usage_date desc limit 1)
    )
) as live;

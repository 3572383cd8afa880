-- Gives values of tags that are the user's id the pseudonym, adds them to those that it has from an earlier erasure, and counts them.
with kept as (
    update analytics.usage_tag_daily_kept
    set value = %(pseudonym)s
    where value = %(user_id)s
      and not is_rest
    returning 1
),
theirs as (
    delete from analytics.usage_tag_daily
    where value = %(user_id)s
      and not is_rest
    returning *
),
renamed as (
    insert into analytics.usage_tag_daily as known (
        usage_date,
        tag,
        value,
        is_rest,
        team,
        provider,
        model,
        requests,
        errors,
        input_tokens,
        output_tokens,
        total_tokens,
        cache_read_tokens,
        cache_write_tokens,
        output_reasoning_tokens,
        input_audio_tokens,
        output_audio_tokens,
        input_image_tokens,
        output_image_tokens,
        unattributed_tokens,
        other_units,
        cost_usd,
        list_cost_usd,
        reported_cost_usd,
        reported_requests,
        unpriced_requests,
        unlisted_requests
    )
    select
        usage_date,
        tag,
        %(pseudonym)s,
        false,
        team,
        provider,
        model,
        requests,
        errors,
        input_tokens,
        output_tokens,
        total_tokens,
        cache_read_tokens,
        cache_write_tokens,
        output_reasoning_tokens,
        input_audio_tokens,
        output_audio_tokens,
        input_image_tokens,
        output_image_tokens,
        unattributed_tokens,
        other_units,
        cost_usd,
        list_cost_usd,
        reported_cost_usd,
        reported_requests,
        unpriced_requests,
        unlisted_requests
    from theirs
    on conflict (usage_date, tag, is_rest, analytics.group_key(value, team, provider, model)) do update
    set requests = known.requests + excluded.requests,
        errors = known.errors + excluded.errors,
        input_tokens = analytics.capped(known.input_tokens::numeric + excluded.input_tokens),
        output_tokens = analytics.capped(known.output_tokens::numeric + excluded.output_tokens),
        total_tokens = analytics.capped(known.total_tokens::numeric + excluded.total_tokens),
        cache_read_tokens = analytics.capped(known.cache_read_tokens::numeric + excluded.cache_read_tokens),
        cache_write_tokens = analytics.capped(known.cache_write_tokens::numeric + excluded.cache_write_tokens),
        output_reasoning_tokens = analytics.capped(known.output_reasoning_tokens::numeric + excluded.output_reasoning_tokens),
        input_audio_tokens = analytics.capped(known.input_audio_tokens::numeric + excluded.input_audio_tokens),
        output_audio_tokens = analytics.capped(known.output_audio_tokens::numeric + excluded.output_audio_tokens),
        input_image_tokens = analytics.capped(known.input_image_tokens::numeric + excluded.input_image_tokens),
        output_image_tokens = analytics.capped(known.output_image_tokens::numeric + excluded.output_image_tokens),
        unattributed_tokens = analytics.capped(known.unattributed_tokens::numeric + excluded.unattributed_tokens),
        other_units = analytics.units_of_all(array[known.other_units, excluded.other_units]),
        cost_usd = coalesce(known.cost_usd + excluded.cost_usd, known.cost_usd, excluded.cost_usd),
        list_cost_usd = coalesce(known.list_cost_usd + excluded.list_cost_usd, known.list_cost_usd, excluded.list_cost_usd),
        reported_cost_usd = coalesce(known.reported_cost_usd + excluded.reported_cost_usd, known.reported_cost_usd, excluded.reported_cost_usd),
        reported_requests = known.reported_requests + excluded.reported_requests,
        unpriced_requests = known.unpriced_requests + excluded.unpriced_requests,
        unlisted_requests = known.unlisted_requests + excluded.unlisted_requests,
        updated_at = now()
    returning 1
)
select (select count(*) from renamed) + (select count(*) from kept);

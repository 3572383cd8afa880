-- Adds the user's days to those that the pseudonym has from an earlier erasure, and counts them.
with theirs as (
    delete from analytics.usage_user_daily as day
    using analytics.usage_user_daily as known
    where day.user_id = %(user_id)s
      and known.user_id = %(pseudonym)s
      and known.usage_date = day.usage_date
      and known.team = day.team
      and known.service = day.service
      and known.provider = day.provider
      and known.model = day.model
    returning day.*
),
merged as (
    update analytics.usage_user_daily as known
    set requests = known.requests + theirs.requests,
        errors = known.errors + theirs.errors,
        input_tokens = analytics.capped(known.input_tokens::numeric + theirs.input_tokens),
        output_tokens = analytics.capped(known.output_tokens::numeric + theirs.output_tokens),
        total_tokens = analytics.capped(known.total_tokens::numeric + theirs.total_tokens),
        cache_read_tokens = analytics.capped(known.cache_read_tokens::numeric + theirs.cache_read_tokens),
        cache_write_tokens = analytics.capped(known.cache_write_tokens::numeric + theirs.cache_write_tokens),
        output_reasoning_tokens = analytics.capped(known.output_reasoning_tokens::numeric + theirs.output_reasoning_tokens),
        input_audio_tokens = analytics.capped(known.input_audio_tokens::numeric + theirs.input_audio_tokens),
        output_audio_tokens = analytics.capped(known.output_audio_tokens::numeric + theirs.output_audio_tokens),
        input_image_tokens = analytics.capped(known.input_image_tokens::numeric + theirs.input_image_tokens),
        output_image_tokens = analytics.capped(known.output_image_tokens::numeric + theirs.output_image_tokens),
        unattributed_tokens = analytics.capped(known.unattributed_tokens::numeric + theirs.unattributed_tokens),
        other_units = analytics.units_of_all(array[known.other_units, theirs.other_units]),
        cost_usd = coalesce(known.cost_usd + theirs.cost_usd, known.cost_usd, theirs.cost_usd),
        list_cost_usd = coalesce(known.list_cost_usd + theirs.list_cost_usd, known.list_cost_usd, theirs.list_cost_usd),
        reported_cost_usd = coalesce(known.reported_cost_usd + theirs.reported_cost_usd, known.reported_cost_usd, theirs.reported_cost_usd),
        reported_requests = known.reported_requests + theirs.reported_requests,
        unpriced_requests = known.unpriced_requests + theirs.unpriced_requests,
        unlisted_requests = known.unlisted_requests + theirs.unlisted_requests,
        updated_at = now()
    from theirs
    where known.user_id = %(pseudonym)s
      and known.usage_date = theirs.usage_date
      and known.team = theirs.team
      and known.service = theirs.service
      and known.provider = theirs.provider
      and known.model = theirs.model
    returning 1
)
select count(*)
from merged;

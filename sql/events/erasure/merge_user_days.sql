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
        cost_usd = coalesce(known.cost_usd + theirs.cost_usd, known.cost_usd, theirs.cost_usd),
        unpriced_requests = known.unpriced_requests + theirs.unpriced_requests,
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

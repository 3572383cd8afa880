-- Models with their totals over all rolled-up days, from one model on; of one team or service where that is asked for.
-- Within what a bound token may see; from the usage of users where it is bound to some.
select
    provider,
    model,
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(errors)) as errors,
    analytics.capped(sum(input_tokens)) as input_tokens,
    analytics.capped(sum(output_tokens)) as output_tokens,
    analytics.capped(sum(total_tokens)) as total_tokens,
    analytics.capped(sum(cache_read_tokens)) as cache_read_tokens,
    analytics.capped(sum(cache_write_tokens)) as cache_write_tokens,
    analytics.capped(sum(output_reasoning_tokens)) as reasoning_tokens,
    analytics.capped(sum(input_audio_tokens)) as input_audio_tokens,
    analytics.capped(sum(output_audio_tokens)) as output_audio_tokens,
    analytics.capped(sum(input_image_tokens)) as input_image_tokens,
    analytics.capped(sum(output_image_tokens)) as output_image_tokens,
    analytics.capped(sum(unattributed_tokens)) as unattributed_tokens,
    coalesce(analytics.sum_units(other_units) filter (where other_units is not null), '{{}}') as other_units,
    sum(cost_usd) as cost_usd,
    sum(list_cost_usd) as list_cost_usd,
    sum(reported_cost_usd) as reported_cost_usd,
    analytics.capped(sum(reported_requests)) as reported_requests,
    analytics.capped(sum(unpriced_requests)) as unpriced_requests,
    analytics.capped(sum(unlisted_requests)) as unlisted_requests
from {usage}
where (%(provider)s::text is null or provider = %(provider)s)
and (%(model)s::text is null or model = %(model)s)
and (%(team)s::text is null or team = %(team)s)
and (%(service)s::text is null or service = %(service)s){within}
and (%(after_provider)s::text is null or (provider, model) > (%(after_provider)s, %(after_model)s::text))
group by provider, model
order by provider, model
limit %(most)s

-- Prefixes under which the tokens of an applied batch may still be cached, for a recovery. The days spare other partitions.
select distinct tokens.token_prefix
from raw.token_deltas as deltas
join usage.api_access_tokens as tokens on tokens.token_id = deltas.token_id
where deltas.usage_date = any(%(usage_dates)s)
  and deltas.batch_id = %(batch_id)s
  and tokens.token_prefix is not null;

-- The days of a new time zone that rows of one day of a raw table belong to.
select distinct usage.day_of({used_at}, batch.claimed_at, %(timezone)s)
from {raw} as delta
join ops.sync_batches as batch on batch.batch_id = delta.batch_id
where delta.usage_date = %(day)s
order by 1;

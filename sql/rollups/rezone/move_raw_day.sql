-- Moves rows of one day of a raw table to their days of the new time zone, and says to which; rows of other days stay.
with moved as (
    update {raw} as delta
    set usage_date = usage.day_of({used_at}, batch.claimed_at, %(timezone)s)
    from ops.sync_batches as batch
    where batch.batch_id = delta.batch_id
      and delta.usage_date = %(day)s
      and usage.day_of({used_at}, batch.claimed_at, %(timezone)s) = any(%(days)s::date[])
    returning delta.batch_id, delta.usage_date
),
days_of_batch as (
    select batch_id, array_agg(distinct usage_date) as days
    from moved
    group by batch_id
),
noted as (
    update ops.sync_batches as batch
    set usage_dates = (select array_agg(distinct day order by day) from unnest(batch.usage_dates || days_of_batch.days) as day)
    from days_of_batch
    where batch.batch_id = days_of_batch.batch_id
)
select usage_date, count(*)
from moved
group by usage_date
order by usage_date;

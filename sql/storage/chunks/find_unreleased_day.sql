-- Why a day of a raw table must stay: a batch whose keys may still be in Redis, or a daily table that misses something.
-- Request events have no daily table of their own.
select format('batch %%s is not released', batch_id)
from ops.sync_batches
where family = %(family)s
  and released_at is null
  and usage_dates @> array[%(day)s::date]
union all
select format('%%s of %%s is not rolled up', %(family)s::text, %(day)s::date)
where %(family)s <> 'event'
  and not exists (
    select 1
    from ops.touched_days
    where family = %(family)s
      and usage_date = %(day)s
      and rolled_version >= version
)
limit 1;

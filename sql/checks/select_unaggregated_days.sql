-- Closed days of merchant usage that no aggregation of all merchants has read since their end. Days before the first aggregation
-- ever are not asked for: nobody was at work yet.
select day::date
from generate_series(%(first_day)s::date, %(last_day)s::date, interval '1 day') as day
where (day + interval '1 day') at time zone %(timezone)s > (
        select min(applied_at)
        from ops.sync_batches
        where family = 'merchant'
    )
  and not exists (
    select 1
    from ops.sync_batches
    where family = 'merchant'
      and usage_dates @> array[day::date]
      and batch_id like '%%/' || day::date::text
      and claimed_at >= (day + interval '1 day') at time zone %(timezone)s
  )
order by day;

-- Request events that were stored before under the same id, by the day of their claim.
select (claimed_at at time zone %(timezone)s)::date as usage_date, sum(duplicates) as duplicates
from ops.sync_batches
where family = 'event'
  and duplicates > 0
  and applied_at >= %(since)s
group by 1
order by 1;

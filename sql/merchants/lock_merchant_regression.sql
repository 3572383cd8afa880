-- An open regression and the row that it is about, held until the transaction ends; no row when another has settled it.
-- What it fell to is of the Redis of now, or unknown.
select
    r.counter_value,
    case
        when not exists (
            select
            from ops.odometers as o
            where o.family = 'merchant'
              and o.usage_date = r.date
              and o.changed_at > r.last_seen_at
        ) then r.fell_to
    end as fell_to,
    t.metric_value,
    t.reset_offset,
    t.updated_at
from ops.counter_regressions as r
left join usage.merchant_usage as t
    on t.merchant_id = r.merchant_id
   and t.date = r.date
   and t.metric_type = r.metric_type
where r.regression_id = %(regression_id)s
  and r.accepted_at is null
for update of r;

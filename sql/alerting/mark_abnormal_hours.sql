-- Marks hours that were judged to be far above the usual.
update ops.usage_hours as hours
set is_abnormal = true
from unnest(%(families)s::text[], %(ids)s::text[], %(hours)s::timestamptz[]) as judged (family, id, hour_start)
where hours.family = judged.family
  and hours.id = judged.id
  and hours.hour_start = judged.hour_start;

-- What was stored of some days beyond what was recorded, before their odometers first forgot something.
select family, usage_date, surplus
from ops.odometers
where usage_date = any(%(days)s)
  and surplus is not null;

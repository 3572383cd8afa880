-- Odometers of some days, with what they forgot.
select family, usage_date, counted, forgotten, surplus
from ops.odometers
where usage_date = any(%(days)s);

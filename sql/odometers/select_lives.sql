-- The lives of some odometers.
select family, usage_date, life, base, counted
from ops.odometer_lives
where usage_date = any(%(days)s)
  and family = any(%(families)s);

-- Some odometers as we last saw them.
select family, usage_date, counted, life, mark, problem
from ops.odometers
where usage_date = any(%(days)s)
  and family = any(%(families)s);

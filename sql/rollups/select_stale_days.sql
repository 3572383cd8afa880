-- Closed days whose raw rows changed after their daily table was last replaced, oldest first.
select family, usage_date, version
from ops.touched_days
where version > rolled_version
  and usage_date < %(today)s
order by usage_date, family;

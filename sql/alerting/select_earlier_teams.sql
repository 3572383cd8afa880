-- Those of the teams that had usage within these days: the days on which they were silent since then are zeros.
select distinct team
from analytics.usage_daily
where usage_date >= %(since)s
  and usage_date < %(until)s
  and team = any(%(teams)s);

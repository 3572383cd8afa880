-- The bounds of days that are made again in another time zone; their prices stay.
update analytics.day_prices as price
set day_start = day.first,
    day_end = day.until
from unnest(%(days)s::date[], %(firsts)s::timestamptz[], %(untils)s::timestamptz[]) as day (usage_date, first, until)
where price.usage_date = day.usage_date
  and (price.day_start, price.day_end) is distinct from (day.first, day.until);

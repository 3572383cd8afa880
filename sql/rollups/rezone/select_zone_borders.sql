-- Where the days of earlier time zones end, if there are any, the latest first.
select first_moment, first_day, earlier_zone
from ops.zone_borders
order by first_moment desc;

-- Where the days of an earlier time zone end, if there are any: the latest such moment.
select first_moment, first_day, earlier_zone
from ops.zone_borders
order by first_moment desc
limit 1;

-- An hour or day that overlaps a span of time and waits for its roll-up, which needs the events; weeks and months need none.
-- In USAGE_TIMEZONE a day may have 25 hours, and begin an hour before its name where a clock goes back over midnight (Havana).
-- Before a border of time zones, what waits are the hours and days of the earlier zone that overlap it: they reach further.
select format('the %%s of %%s is not rolled up', touched.grain, to_char(touched.window_start, 'YYYY-MM-DD HH24:MI TZH'))
from ops.touched_windows as touched
cross join ops.calendar
cross join lateral (
    select
        (touched.window_start at time zone calendar.time_zone)::date as usage_date,
        case
            when not exists (
                select 1
                from ops.zone_borders
                where first_moment > touched.window_start - interval '1 day'
            ) then interval '0'
            when touched.grain = 'hour' then interval '1 hour'
            else interval '26 hours'
        end as further
) as local
where touched.window_start < %(end)s + interval '27 hours'
  and touched.window_start > %(start)s - interval '51 hours'
  and case touched.grain
        when 'hour' then
            touched.window_start - local.further < %(end)s
            and touched.window_start + interval '1 hour' + local.further > %(start)s
        when 'day' then
            case ((touched.window_start - interval '1 hour') at time zone calendar.time_zone)::date
                when local.usage_date then touched.window_start - interval '1 hour'
                else touched.window_start
            end - local.further < %(end)s
            and (local.usage_date + 1)::timestamp at time zone calendar.time_zone + local.further > %(start)s
        else false
    end
order by touched.window_start
limit 1;

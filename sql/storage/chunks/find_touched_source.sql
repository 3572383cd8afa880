-- An hour or day that overlaps a span of time and waits for its roll-up, which needs the events; weeks and months need none.
-- In USAGE_TIMEZONE a day may have 25 hours, and begin an hour before its name where a clock goes back over midnight (Havana).
select format('the %%s of %%s is not rolled up', touched.grain, to_char(touched.window_start, 'YYYY-MM-DD HH24:MI TZH'))
from ops.touched_windows as touched
cross join ops.calendar
cross join lateral (
    select (touched.window_start at time zone calendar.time_zone)::date as usage_date
) as local
where touched.window_start < %(end)s + interval '1 hour'
  and touched.window_start > %(start)s - interval '25 hours'
  and case touched.grain
        when 'hour' then touched.window_start < %(end)s and touched.window_start + interval '1 hour' > %(start)s
        when 'day' then
            case ((touched.window_start - interval '1 hour') at time zone calendar.time_zone)::date
                when local.usage_date then touched.window_start - interval '1 hour'
                else touched.window_start
            end < %(end)s
            and (local.usage_date + 1)::timestamp at time zone calendar.time_zone > %(start)s
        else false
    end
order by touched.window_start
limit 1;

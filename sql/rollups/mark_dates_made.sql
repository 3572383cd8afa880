-- Notes that these dates were made, also those that came out empty.
insert into ops.made_dates (table_name, date)
select %(table_name)s, date
from unnest(%(dates)s::date[]) as made (date)
order by date
on conflict (table_name, date) do update
set made_at = clock_timestamp();

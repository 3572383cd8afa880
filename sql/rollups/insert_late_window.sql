-- A closed window of usage events that was rolled up before and has changed since: when, and by how much.
insert into ops.late_data (table_name, usage_date, window_start, before, after)
values (%(table_name)s, %(usage_date)s, %(window_start)s, %(before)s, %(after)s);

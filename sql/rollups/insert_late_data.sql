-- A closed day that was rolled up before and has changed since: when, and by how much.
insert into ops.late_data (table_name, usage_date, before, after)
values (%(table_name)s, %(usage_date)s, %(before)s, %(after)s);

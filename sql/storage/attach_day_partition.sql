-- Makes a day's table a partition: half-open range of one day.
alter table {parent}
attach partition {partition}
for values from ({first_day}) to ({next_day});

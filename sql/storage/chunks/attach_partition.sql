-- Makes a table a partition: a half-open range.
alter table {parent}
attach partition {partition}
for values from ({first}) to ({next});

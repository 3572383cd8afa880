-- Which of the columns that pruning relies on are there, in the schema where Dagster's storage has its tables.
select
    columns.table_name,
    columns.column_name
from information_schema.columns as columns
where columns.table_schema = current_schema()
  and columns.table_name = any(%(tables)s)
order by columns.table_name, columns.column_name;

-- Columns of a table with their types and comments, for the column schema that the Dagster UI shows.
select
    attribute.attname,
    format_type(attribute.atttypid, attribute.atttypmod),
    not attribute.attnotnull,
    col_description(attribute.attrelid, attribute.attnum)
from pg_attribute as attribute
where attribute.attrelid = %(table)s::text::regclass
  and attribute.attnum > 0
  and not attribute.attisdropped
order by attribute.attnum;

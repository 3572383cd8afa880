-- Forgets that these dates changed. What commits after this is seen by who asks next, and what committed before is in the result.
delete from ops.touched_dates
where table_name = %(table_name)s
  and date = any(%(dates)s::date[]);

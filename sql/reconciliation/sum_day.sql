-- What a counter has on a day, adjustments and all.
select coalesce(sum({field}), 0)
from {raw}
where usage_date = %(usage_date)s
  and ({keys}) = ({values});

-- How many rows are stored per day, for all merchants or one.
select date, count(*) as stored_rows
from usage.merchant_usage
where date = any(%(days)s)
  and (%(merchant_id)s::text is null or merchant_id = %(merchant_id)s)
group by date;

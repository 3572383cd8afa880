-- How many merchants have a row on a day.
select count(distinct merchant_id) as merchants
from usage.merchant_usage
where date = %(day)s;

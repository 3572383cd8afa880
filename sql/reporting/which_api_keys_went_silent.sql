-- Which API keys went silent: used before, but not in the last seven days?
select
    keys.api_key_id,
    keys.first_used_on,
    keys.last_used_on,
    current_day.today - keys.last_used_on as days_silent,
    keys.total_requests
from reporting.api_key_activity as keys
cross join reporting.current_day
where keys.last_used_on <= current_day.today - 7
  and keys.last_used_at < now() - interval '7 days'
order by keys.total_requests desc, keys.api_key_id
limit 10;

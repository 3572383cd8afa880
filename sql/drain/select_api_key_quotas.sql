-- Every quota, for publishing to Redis; null means unlimited.
select api_key_id, requests_per_day, requests_per_minute
from usage.api_key_quotas
order by api_key_id;

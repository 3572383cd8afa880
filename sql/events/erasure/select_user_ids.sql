-- All ids of users that are stored, for a search of near spellings.
select user_id
from analytics.usage_user_daily
union
select user_id
from analytics.usage_events
union
select user_id
from raw.request_events
union
select user_id
from usage.provider_usage
where user_id is not null
union
select unnest(users)
from usage.api_access_tokens;

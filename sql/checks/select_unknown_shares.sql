-- Services and the requests that they had on these days: all, and those of which nobody knows the team or the service.
select
    service,
    sum(requests)::bigint as requests,
    (sum(requests) filter (where team = %(unknown)s or service = %(unknown)s))::bigint as unknown_requests
from analytics.usage_daily
where usage_date between %(first_day)s and %(last_day)s
group by service
having bool_or(team = %(unknown)s or service = %(unknown)s)
order by unknown_requests desc, service;

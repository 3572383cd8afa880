-- Services and the requests and errors that they had on these days.
select
    service,
    sum(requests)::bigint as requests,
    sum(errors)::bigint as errors
from analytics.usage_daily
where usage_date between %(first_day)s and %(last_day)s
group by service
order by service;

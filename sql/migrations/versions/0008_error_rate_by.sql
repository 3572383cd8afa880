-- Requests that failed per day and some dimensions: the views by provider and by service are this one.
create view {view} as
select
    usage_date,
    {dimensions},
    analytics.capped(sum(requests)) as requests,
    analytics.capped(sum(errors)) as errors,
    round(sum(errors) / nullif(sum(requests), 0), 4) as error_share
from analytics.usage_daily
group by usage_date, {dimensions};
comment on column {view}.usage_date is 'Day';
comment on column {view}.requests is 'Requests, all outcomes';
comment on column {view}.errors is 'Requests that count as errors: a kind of error is named, or the status is 400 or more';
comment on column {view}.error_share is 'errors of each request, from 0 to 1; over several days divide the sums instead';

-- The seconds by which a time zone is ahead of UTC, by the server's rules, at each of these moments.
select
    moment,
    extract(epoch from (moment at time zone %(timezone)s) - (moment at time zone 'UTC'))::bigint as seconds
from unnest(%(moments)s::timestamptz[]) as moment
order by moment;

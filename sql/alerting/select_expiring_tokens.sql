-- What a drain lately noted of token keys that were about to expire.
select
    (details ->> 'looked_at')::bigint as looked_at,
    (details ->> 'expiring')::bigint as expiring,
    (details ->> 'shortest_seconds')::float as shortest_seconds,
    beaten_at as seen_at
from ops.heartbeats
where name = 'token_ttls'
  and beaten_at > clock_timestamp() - make_interval(secs => %(seconds)s);

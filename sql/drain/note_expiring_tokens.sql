-- Word of a drain that met token keys which were about to expire; the alerts read it.
insert into ops.heartbeats (name, details)
values (
    'token_ttls',
    jsonb_build_object(
        'looked_at', %(looked_at)s::bigint, 'expiring', %(expiring)s::bigint, 'shortest_seconds', %(shortest_seconds)s::float
    )
)
on conflict (name) do update
set
    beaten_at = excluded.beaten_at,
    details = excluded.details;

-- The channels of ALERT_URLS as they are named now.
insert into ops.alert_channels as channels (channel, name)
select * from unnest(%(channels)s::text[], %(names)s::text[])
on conflict (channel) do update
set
    name = excluded.name,
    seen_at = clock_timestamp();

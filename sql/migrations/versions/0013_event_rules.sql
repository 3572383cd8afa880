-- Roll-ups of usage events take names of any width.

-- A row of an index has at most 2.7 KB, and five names of 200 characters have up to 4 KB: one such event failed the roll-up of
-- everybody. So the keys hold a digest of the names. SHA-256, since for MD5 a sender could make two groups of one digest.
-- A name is preceded by its length: so two groups whose names end elsewhere differ. Escapes make bytea take a text as it is;
-- convert_to() would do so, too, but is not immutable, as an index needs it.
create function analytics.group_key(team text, service text, provider text, model text) returns bytea
language sql immutable strict parallel safe
return sha256(decode(
    replace(
        length(team)::text || ':' || team || length(service)::text || ':' || service
            || length(provider)::text || ':' || provider || model,
        '\', '\\'
    ),
    'escape'
));
comment on function analytics.group_key is 'SHA-256 of the names of a group, each with its length: the keys of roll-ups hold it, since the names may be too long for an index';

create unique index usage_hourly_group_idx on analytics.usage_hourly
    (hour_start, analytics.group_key(team, service, provider, model));
create unique index usage_daily_group_idx on analytics.usage_daily
    (usage_date, analytics.group_key(team, service, provider, model));
create unique index usage_weekly_group_idx on analytics.usage_weekly
    (week_start, analytics.group_key(team, service, provider, model));
create unique index usage_monthly_group_idx on analytics.usage_monthly
    (month_start, analytics.group_key(team, service, provider, model));
create unique index usage_latency_daily_group_idx on analytics.usage_latency_daily
    (usage_date, analytics.group_key(team, service, provider, model));
create unique index usage_user_daily_group_idx on analytics.usage_user_daily
    (usage_date, analytics.group_key(team, service, provider, model), user_id);

alter table analytics.usage_hourly drop constraint usage_hourly_pkey;
alter table analytics.usage_daily drop constraint usage_daily_pkey;
alter table analytics.usage_weekly drop constraint usage_weekly_pkey;
alter table analytics.usage_monthly drop constraint usage_monthly_pkey;
alter table analytics.usage_latency_daily drop constraint usage_latency_daily_pkey;
alter table analytics.usage_user_daily drop constraint usage_user_daily_pkey;

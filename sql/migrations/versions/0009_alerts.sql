-- Alerts with the state of their messages, signs of life of processes, and hourly usage of keys and tokens.

create table ops.alerts (
    alert_id bigint generated always as identity primary key,
    dedupe_key text not null,
    rule text not null,
    severity text not null check (severity in ('warning', 'failure')),
    title text not null,
    text text not null,
    remedy text not null,
    first_at timestamptz not null default clock_timestamp(),
    last_at timestamptz not null default clock_timestamp(),
    count integer not null default 1,
    cleared_at timestamptz,
    delivered_at timestamptz,
    cleared_delivered_at timestamptz,
    pending text check (pending in ('raised', 'cleared')),
    delivered_to text[] not null default '{}',
    attempts integer not null default 0,
    next_try_at timestamptz not null default clock_timestamp(),
    claimed_by text,
    claimed_until timestamptz,
    delivery_error text
);
create unique index on ops.alerts (dedupe_key) where cleared_at is null;
create index on ops.alerts (dedupe_key, delivered_at);
create index on ops.alerts (next_try_at) where pending is not null;
create index on ops.alerts (cleared_at) where cleared_at is not null;
comment on table ops.alerts is 'Alerts, one row from raised to cleared, and what was sent of them (docs/alerts.md)';
comment on column ops.alerts.alert_id is 'Number of the alert';
comment on column ops.alerts.dedupe_key is 'What the alert is about: at most one alert per key is open';
comment on column ops.alerts.rule is 'Rule that raised it, a heading of docs/alerts.md';
comment on column ops.alerts.severity is 'failure: something does not work; warning: something needs a look';
comment on column ops.alerts.title is 'One line';
comment on column ops.alerts.text is 'What happened, with numbers, as of last_at';
comment on column ops.alerts.remedy is 'What to do';
comment on column ops.alerts.first_at is 'When it was raised';
comment on column ops.alerts.last_at is 'When it was last found to be so';
comment on column ops.alerts.count is 'Evaluations that found it';
comment on column ops.alerts.cleared_at is 'When it was found to be over; null: it is open';
comment on column ops.alerts.delivered_at is 'When a channel last accepted the message that it is raised; null: none has';
comment on column ops.alerts.cleared_delivered_at is 'When a channel accepted the message that it is over; null: none has, or nobody was told of the alert';
comment on column ops.alerts.pending is 'Message that is still to be sent to some channel; null: none';
comment on column ops.alerts.delivered_to is 'Channels that accepted the latest message, by place and kind in ALERT_URLS';
comment on column ops.alerts.attempts is 'Attempts to send the latest message';
comment on column ops.alerts.next_try_at is 'When a pending message is tried next';
comment on column ops.alerts.claimed_by is 'Evaluator that is sending the message, or last did';
comment on column ops.alerts.claimed_until is 'Until then nobody else sends it; null: nobody is sending';
comment on column ops.alerts.delivery_error is 'Why the last attempt failed, without addresses; null: it did not';

create table ops.heartbeats (
    name text primary key,
    beaten_at timestamptz not null default clock_timestamp(),
    details jsonb not null default '{}'
);
comment on table ops.heartbeats is 'Signs of life: when each part last did its work, and what it has to remember';
comment on column ops.heartbeats.name is 'scheduler: the sensor of alerts, so the Dagster daemon; token_ttls: a drain that met token keys about to expire';
comment on column ops.heartbeats.beaten_at is 'When it last did its work';
comment on column ops.heartbeats.details is 'What it found, or remembers for the next time';

create table ops.usage_hours (
    family text not null,
    id text not null,
    hour_start timestamptz not null,
    uses bigint not null,
    primary key (family, id, hour_start)
);
create index on ops.usage_hours (family, hour_start);
comment on table ops.usage_hours is 'Uses per API key or token and closed hour of the last 15 days, by which abnormal usage is judged';
comment on column ops.usage_hours.family is 'api_key or token';
comment on column ops.usage_hours.id is 'API key or API token';
comment on column ops.usage_hours.hour_start is 'Beginning of the hour; an hour without a row had no uses';
comment on column ops.usage_hours.uses is 'Requests of the API key, uses of the token';

-- Few batches are uncertain: an evaluation every half a minute must not read the ledger of a day for them.
create index on ops.sync_batches (applied_at) where is_uncertain;

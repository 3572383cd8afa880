-- Each channel has a record of its own: what it was told of each alert. What is due follows from that, and is stored nowhere.
create table ops.alert_channels (
    channel text primary key,
    name text not null,
    attempts integer not null default 0,
    next_try_at timestamptz not null default clock_timestamp(),
    error text,
    claimed_by text,
    claimed_until timestamptz,
    seen_at timestamptz not null default clock_timestamp()
);
comment on table ops.alert_channels is 'Channels of ALERT_URLS, and the log: whether they take messages';
comment on column ops.alert_channels.channel is 'A slow hash of its address, so that nobody can guess the address; log: the log';
comment on column ops.alert_channels.name is 'Its place in ALERT_URLS and its kind, when it was last seen there';
comment on column ops.alert_channels.attempts is 'How often in a row it took no message';
comment on column ops.alert_channels.next_try_at is 'When messages that it did not take are tried again';
comment on column ops.alert_channels.error is 'Why it took no message at the last attempt, without addresses; null: it did';
comment on column ops.alert_channels.claimed_by is 'Evaluator that is sending to it, or last did';
comment on column ops.alert_channels.claimed_until is 'Until then nobody else sends to it; null: nobody is sending';
comment on column ops.alert_channels.seen_at is 'When an evaluation last had it in ALERT_URLS';

create table ops.alert_tellings (
    alert_id bigint not null references ops.alerts on delete cascade,
    channel text not null,
    owed_at timestamptz not null default clock_timestamp(),
    raised_at timestamptz,
    size bigint,
    severity text,
    cleared_at timestamptz,
    attempts integer not null default 0,
    primary key (alert_id, channel)
);
create index on ops.alert_tellings (channel, raised_at);
comment on table ops.alert_tellings is 'What each channel was told of each alert, or should have been';
comment on column ops.alert_tellings.alert_id is 'The alert';
comment on column ops.alert_tellings.channel is 'The channel, as in ops.alert_channels';
comment on column ops.alert_tellings.owed_at is 'When the channel was first told, or could not be';
comment on column ops.alert_tellings.raised_at is 'When it was last told of the alert; null: not yet';
comment on column ops.alert_tellings.size is 'How large the alert was then; null: it has no size';
comment on column ops.alert_tellings.severity is 'How severe it was then';
comment on column ops.alert_tellings.cleared_at is 'When it was told that the alert is over; null: not yet';
comment on column ops.alert_tellings.attempts is 'How often it did not take the message that is due';

alter table ops.alerts
    add column link text,
    add column ending text not null default 'This is over.',
    add column size bigint,
    add column is_told boolean not null default true,
    add column repeat_after interval not null default '1 hour',
    add column recur_after interval not null default '15 minutes',
    add column acknowledged_at timestamptz,
    add column acknowledged_by text,
    add column acknowledged_size bigint,
    add column acknowledged_severity text,
    add column snoozed_at timestamptz,
    add column snoozed_by text,
    add column snoozed_until timestamptz,
    drop column pending,
    drop column delivered_at,
    drop column cleared_delivered_at,
    drop column delivered_to,
    drop column told,
    drop column attempts,
    drop column next_try_at,
    drop column claimed_by,
    drop column claimed_until,
    drop column delivery_error;
create index on ops.alerts (dedupe_key, alert_id);
comment on column ops.alerts.link is 'Where to look at it in the UI; null: DAGSTER_UI_URL is not set, or there is no such place';
comment on column ops.alerts.ending is 'What is said when it is not found any more';
comment on column ops.alerts.size is 'How much of it there is, such as dead letters; null: it has no size';
comment on column ops.alerts.is_told is 'False: another alert says the same and more';
comment on column ops.alerts.repeat_after is 'After which time it is told again while it is open';
comment on column ops.alerts.recur_after is 'For how long after it was told no other alert with its key is told';
comment on column ops.alerts.acknowledged_at is 'When somebody took it on; null: nobody has';
comment on column ops.alerts.acknowledged_by is 'Who did, as user@host';
comment on column ops.alerts.acknowledged_size is 'How large it was then: at twice of that it is told again';
comment on column ops.alerts.acknowledged_severity is 'How severe it was then';
comment on column ops.alerts.snoozed_at is 'When somebody made it silent for a time; null: nobody has';
comment on column ops.alerts.snoozed_by is 'Who did, as user@host';
comment on column ops.alerts.snoozed_until is 'Until then its key is silent';

-- The schemas, and all tables of the counters: raw deltas, running totals, daily tables, ledger and dead letters.

create schema app;
comment on schema app is 'The applications'' own tables, which the pipeline reads';
create schema raw;
comment on schema raw is 'What each drained batch contained, append-only, one partition per day';
create schema usage;
comment on schema usage is 'Usage of API keys, API tokens, providers and merchants: running totals and days';
create schema analytics;
comment on schema analytics is 'LLM usage events and their windows';
create schema stats;
comment on schema stats is 'Issue statistics and rankings';
create schema reporting;
comment on schema reporting is 'Views for analysts';
create schema ops;
comment on schema ops is 'How the pipeline did its work: ledger of batches, dead letters, late data, regressions';

create function usage.day_of(used_at timestamptz, claimed_at timestamptz, time_zone text) returns date
language sql immutable parallel safe
return (least(used_at, claimed_at) at time zone time_zone)::date;
comment on function usage.day_of is 'The day that a delta counts for: that of the earlier of its last use and its claim';

-- raw: no unique index, since the ledger row is what makes a batch count once. BRIN suits batch_id: ids ascend with time.

create table raw.api_key_deltas (
    usage_date date not null,
    batch_id text not null,
    source_key text not null,
    api_key_id text not null,
    total_requests bigint not null,
    successful_requests bigint not null,
    failed_requests bigint not null,
    total_file_size bigint not null,
    total_files_uploaded bigint not null,
    last_used_at timestamptz,
    extra jsonb
) partition by range (usage_date);
create index on raw.api_key_deltas using brin (batch_id);
comment on table raw.api_key_deltas is 'Drained deltas of API keys (apikey:{api_key_id}:metrics), one row per batch and key';
comment on column raw.api_key_deltas.usage_date is 'Day of the delta in USAGE_TIMEZONE: that of the earlier of last_used_at and the claim';
comment on column raw.api_key_deltas.batch_id is 'Batch that drained it, see ops.sync_batches';
comment on column raw.api_key_deltas.source_key is 'Redis key that it was drained from';
comment on column raw.api_key_deltas.api_key_id is 'API key';
comment on column raw.api_key_deltas.total_requests is 'Requests, all outcomes';
comment on column raw.api_key_deltas.successful_requests is 'Requests that succeeded';
comment on column raw.api_key_deltas.failed_requests is 'Requests that failed';
comment on column raw.api_key_deltas.total_file_size is 'Uploaded bytes';
comment on column raw.api_key_deltas.total_files_uploaded is 'Uploaded files';
comment on column raw.api_key_deltas.last_used_at is 'Latest use within the delta, as the writer stamped it';
comment on column raw.api_key_deltas.extra is 'Fields of the hash that the pipeline does not know, as text; null when there are none';

create table raw.provider_deltas (
    usage_date date not null,
    batch_id text not null,
    source_key text not null,
    api_key_id text not null,
    provider text not null,
    user_id text,
    upload_count bigint not null,
    total_file_size bigint not null,
    last_used_at timestamptz,
    extra jsonb
) partition by range (usage_date);
create index on raw.provider_deltas using brin (batch_id);
comment on table raw.provider_deltas is 'Drained deltas of providers (provider:{api_key_id}:{provider}:metrics), one row per batch and key';
comment on column raw.provider_deltas.usage_date is 'Day of the delta in USAGE_TIMEZONE: that of the earlier of last_used_at and the claim';
comment on column raw.provider_deltas.batch_id is 'Batch that drained it, see ops.sync_batches';
comment on column raw.provider_deltas.source_key is 'Redis key that it was drained from';
comment on column raw.provider_deltas.api_key_id is 'API key that uploaded';
comment on column raw.provider_deltas.provider is 'Storage provider that it uploaded to';
comment on column raw.provider_deltas.user_id is 'Owner of the API key, as the writer gave it';
comment on column raw.provider_deltas.upload_count is 'Uploads';
comment on column raw.provider_deltas.total_file_size is 'Uploaded bytes';
comment on column raw.provider_deltas.last_used_at is 'Latest use within the delta, as the writer stamped it';
comment on column raw.provider_deltas.extra is 'Fields of the hash that the pipeline does not know, as text; null when there are none';

create table raw.token_deltas (
    usage_date date not null,
    batch_id text not null,
    source_key text not null,
    token_id text not null,
    instance_id text not null,
    usage_count bigint not null,
    last_used_at timestamptz,
    extra jsonb
) partition by range (usage_date);
create index on raw.token_deltas using brin (batch_id);
comment on table raw.token_deltas is 'Drained deltas of API tokens (token_usage:{token_id}:{instance_id}), one row per batch and key';
comment on column raw.token_deltas.usage_date is 'Day of the delta in USAGE_TIMEZONE: that of the earlier of last_used_at and the claim';
comment on column raw.token_deltas.batch_id is 'Batch that drained it, see ops.sync_batches';
comment on column raw.token_deltas.source_key is 'Redis key that it was drained from';
comment on column raw.token_deltas.token_id is 'API token';
comment on column raw.token_deltas.instance_id is 'API server instance that counted';
comment on column raw.token_deltas.usage_count is 'Uses of the token';
comment on column raw.token_deltas.last_used_at is 'Latest use within the delta, as the writer stamped it';
comment on column raw.token_deltas.extra is 'Members of the JSON that the pipeline does not know; null when there are none';

create table raw.request_events (
    usage_date date not null,
    batch_id text not null,
    event_id uuid not null,
    api_key_id text not null,
    user_id text not null,
    provider text not null,
    event_type text not null,
    file_size bigint not null,
    status text not null,
    at timestamptz not null,
    extra jsonb
) partition by range (usage_date);
create index on raw.request_events using brin (batch_id);
comment on table raw.request_events is 'Request events drained from event_queue, each stored once by event_id (raw.request_event_ids)';
comment on column raw.request_events.usage_date is 'Day of the event in USAGE_TIMEZONE: that of the earlier of its time and the claim';
comment on column raw.request_events.batch_id is 'Batch that drained it, see ops.sync_batches';
comment on column raw.request_events.event_id is 'Event, unique over all days';
comment on column raw.request_events.api_key_id is 'API key of the request';
comment on column raw.request_events.user_id is 'User of the request';
comment on column raw.request_events.provider is 'Storage provider of the request';
comment on column raw.request_events.event_type is 'Kind of request, for example upload';
comment on column raw.request_events.file_size is 'Bytes of the file';
comment on column raw.request_events.status is 'success or failure';
comment on column raw.request_events.at is 'When the request was made, as the writer stamped it';
comment on column raw.request_events.extra is 'Members of the JSON that the pipeline does not know; null when there are none';

create table raw.request_event_ids (
    event_id uuid primary key,
    usage_date date not null,
    payload_hash bytea not null
);
comment on table raw.request_event_ids is 'Registry that makes event_id unique over all day partitions of raw.request_events';
comment on column raw.request_event_ids.event_id is 'Event';
comment on column raw.request_event_ids.usage_date is 'Partition that holds the event';
comment on column raw.request_event_ids.payload_hash is 'BLAKE2b-128 of the event without its time: the same id with another hash is a conflict';

-- usage: running totals. fillfactor 70 keeps their updates on the page (HOT); no index on a counter.

create table usage.api_keys (
    api_key_id text primary key check (length(api_key_id) between 1 and 200),
    total_requests bigint not null default 0 check (total_requests >= 0),
    successful_requests bigint not null default 0 check (successful_requests >= 0),
    failed_requests bigint not null default 0 check (failed_requests >= 0),
    total_file_size bigint not null default 0 check (total_file_size >= 0),
    total_files_uploaded bigint not null default 0 check (total_files_uploaded >= 0),
    last_used_at timestamptz,
    updated_at timestamptz not null default now()
) with (fillfactor = 70);
comment on table usage.api_keys is 'Running totals per API key';
comment on column usage.api_keys.api_key_id is 'API key';
comment on column usage.api_keys.total_requests is 'Requests, all outcomes';
comment on column usage.api_keys.successful_requests is 'Requests that succeeded';
comment on column usage.api_keys.failed_requests is 'Requests that failed';
comment on column usage.api_keys.total_file_size is 'Uploaded bytes';
comment on column usage.api_keys.total_files_uploaded is 'Uploaded files';
comment on column usage.api_keys.last_used_at is 'Latest use, as the writers stamped it';
comment on column usage.api_keys.updated_at is 'When a drain last added to this row';

create table usage.provider_usage (
    api_key_id text not null check (length(api_key_id) between 1 and 200),
    provider text not null check (length(provider) between 1 and 200),
    user_id text check (length(user_id) between 1 and 200),
    upload_count bigint not null default 0 check (upload_count >= 0),
    total_file_size bigint not null default 0 check (total_file_size >= 0),
    last_used_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (api_key_id, provider)
) with (fillfactor = 70);
comment on table usage.provider_usage is 'Running totals per API key and storage provider';
comment on column usage.provider_usage.api_key_id is 'API key that uploaded';
comment on column usage.provider_usage.provider is 'Storage provider that it uploaded to';
comment on column usage.provider_usage.user_id is 'Owner of the API key, as the writer last gave it';
comment on column usage.provider_usage.upload_count is 'Uploads';
comment on column usage.provider_usage.total_file_size is 'Uploaded bytes';
comment on column usage.provider_usage.last_used_at is 'Latest use, as the writers stamped it';
comment on column usage.provider_usage.created_at is 'When the first drain met this pair';
comment on column usage.provider_usage.updated_at is 'When a drain last added to this row';

create table usage.api_access_tokens (
    token_id text primary key check (length(token_id) between 1 and 200),
    token_prefix text unique check (length(token_prefix) between 1 and 200),
    token_hash text,
    name text,
    scopes text[] not null default '{}',
    quota bigint check (quota >= 0),
    expires_at timestamptz,
    revoked_at timestamptz,
    usage_count bigint not null default 0 check (usage_count >= 0),
    last_used_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((token_prefix is null) = (token_hash is null))
) with (fillfactor = 70);
comment on table usage.api_access_tokens is 'API tokens and their usage; a token that was only ever seen in Redis has no prefix, hash or name';
comment on column usage.api_access_tokens.token_id is 'API token';
comment on column usage.api_access_tokens.token_prefix is 'First characters of the token, by which it is looked up; they never authenticate alone';
comment on column usage.api_access_tokens.token_hash is 'Hash of the whole token; the token itself is not stored';
comment on column usage.api_access_tokens.name is 'What its owner calls it';
comment on column usage.api_access_tokens.scopes is 'What it may do';
comment on column usage.api_access_tokens.quota is 'Requests per day that it may make; null: unlimited';
comment on column usage.api_access_tokens.expires_at is 'When it stops to be valid; null: never';
comment on column usage.api_access_tokens.revoked_at is 'When it was revoked; null: it was not';
comment on column usage.api_access_tokens.usage_count is 'Uses, summed over all server instances';
comment on column usage.api_access_tokens.last_used_at is 'Latest use on any instance';
comment on column usage.api_access_tokens.created_at is 'When the token was created, or first seen in Redis';
comment on column usage.api_access_tokens.updated_at is 'When this row last changed';

create table usage.api_key_quotas (
    api_key_id text primary key check (length(api_key_id) between 1 and 200),
    requests_per_day bigint check (requests_per_day >= 0),
    requests_per_minute bigint check (requests_per_minute >= 0),
    updated_at timestamptz not null default now()
);
comment on table usage.api_key_quotas is 'Limits per API key, published to Redis for the recorder''s quota check';
comment on column usage.api_key_quotas.api_key_id is 'API key';
comment on column usage.api_key_quotas.requests_per_day is 'Requests allowed per day; null: unlimited';
comment on column usage.api_key_quotas.requests_per_minute is 'Request events allowed in any 60 s; null: unlimited';
comment on column usage.api_key_quotas.updated_at is 'When the limits were last set';

create table usage.merchant_usage (
    merchant_id text not null check (length(merchant_id) between 1 and 200),
    date date not null,
    metric_type text not null check (length(metric_type) between 1 and 200),
    metric_value bigint not null check (metric_value >= 0),
    reset_offset bigint not null default 0 check (reset_offset >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (merchant_id, date, metric_type)
) with (fillfactor = 70);
create index on usage.merchant_usage (date);
comment on table usage.merchant_usage is 'Daily absolute counters per merchant and metric';
comment on column usage.merchant_usage.merchant_id is 'Merchant';
comment on column usage.merchant_usage.date is 'Day, as the writer named it in the key';
comment on column usage.merchant_usage.metric_type is 'What was counted';
comment on column usage.merchant_usage.metric_value is 'Count of that day: reset_offset plus the counter in Redis; never lowered by an aggregation';
comment on column usage.merchant_usage.reset_offset is 'Counted before Redis lost the counter, folded in by `counters accept-reset`; 0 otherwise';
comment on column usage.merchant_usage.created_at is 'When the counter was first aggregated';
comment on column usage.merchant_usage.updated_at is 'When metric_value last changed';

-- usage: days, each replaced as a whole from raw.

create table usage.api_key_daily (
    usage_date date not null,
    api_key_id text not null,
    total_requests bigint not null,
    successful_requests bigint not null,
    failed_requests bigint not null,
    total_file_size bigint not null,
    total_files_uploaded bigint not null,
    last_used_at timestamptz,
    updated_at timestamptz not null default now(),
    primary key (usage_date, api_key_id)
);
comment on table usage.api_key_daily is 'Usage per API key and day, rebuilt from raw.api_key_deltas';
comment on column usage.api_key_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column usage.api_key_daily.api_key_id is 'API key';
comment on column usage.api_key_daily.total_requests is 'Requests, all outcomes';
comment on column usage.api_key_daily.successful_requests is 'Requests that succeeded';
comment on column usage.api_key_daily.failed_requests is 'Requests that failed';
comment on column usage.api_key_daily.total_file_size is 'Uploaded bytes';
comment on column usage.api_key_daily.total_files_uploaded is 'Uploaded files';
comment on column usage.api_key_daily.last_used_at is 'Latest use of that day';
comment on column usage.api_key_daily.updated_at is 'When this row last changed';

create table usage.provider_daily (
    usage_date date not null,
    api_key_id text not null,
    provider text not null,
    upload_count bigint not null,
    total_file_size bigint not null,
    last_used_at timestamptz,
    updated_at timestamptz not null default now(),
    primary key (usage_date, api_key_id, provider)
);
comment on table usage.provider_daily is 'Usage per API key, storage provider and day, rebuilt from raw.provider_deltas';
comment on column usage.provider_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column usage.provider_daily.api_key_id is 'API key that uploaded';
comment on column usage.provider_daily.provider is 'Storage provider that it uploaded to';
comment on column usage.provider_daily.upload_count is 'Uploads';
comment on column usage.provider_daily.total_file_size is 'Uploaded bytes';
comment on column usage.provider_daily.last_used_at is 'Latest use of that day';
comment on column usage.provider_daily.updated_at is 'When this row last changed';

create table usage.token_daily (
    usage_date date not null,
    token_id text not null,
    usage_count bigint not null,
    last_used_at timestamptz,
    updated_at timestamptz not null default now(),
    primary key (usage_date, token_id)
);
comment on table usage.token_daily is 'Usage per API token and day over all server instances, rebuilt from raw.token_deltas';
comment on column usage.token_daily.usage_date is 'Day in USAGE_TIMEZONE';
comment on column usage.token_daily.token_id is 'API token';
comment on column usage.token_daily.usage_count is 'Uses, summed over all server instances';
comment on column usage.token_daily.last_used_at is 'Latest use of that day';
comment on column usage.token_daily.updated_at is 'When this row last changed';

-- ops

create table ops.sync_batches (
    batch_id text primary key,
    family text not null,
    claimed_at timestamptz not null,
    applied_at timestamptz not null default clock_timestamp(),
    released_at timestamptz,
    keys integer not null,
    stored_rows integer not null default 0,
    dead_letters integer not null default 0,
    duplicates integer not null default 0,
    usage_dates date[] not null default '{}',
    instances text[] not null default '{}',
    redis_server text not null,
    is_uncertain boolean not null,
    drained_by text not null
);
create index on ops.sync_batches (family, batch_id) where released_at is null;
create index on ops.sync_batches (family, applied_at);
create index on ops.sync_batches using gin (usage_dates);
comment on table ops.sync_batches is 'Ledger of batches: a batch counts if and only if its row is here, written in the transaction that stored it';
comment on column ops.sync_batches.batch_id is 'Batch: claim time in epoch milliseconds and a random part, so that ids ascend with time';
comment on column ops.sync_batches.family is 'api_key, provider, token, event or merchant';
comment on column ops.sync_batches.claimed_at is 'When the keys were claimed, by the clock of the Redis server';
comment on column ops.sync_batches.applied_at is 'When the batch was stored';
comment on column ops.sync_batches.released_at is 'When its keys were durably gone from Redis; null: not known to be gone, its raw rows must stay';
comment on column ops.sync_batches.keys is 'Keys (events: queue items) that the batch held';
comment on column ops.sync_batches.stored_rows is 'Rows that it added to raw, or for merchants changed';
comment on column ops.sync_batches.dead_letters is 'Keys or items that were refused, see ops.dead_letters';
comment on column ops.sync_batches.duplicates is 'Events that were stored already';
comment on column ops.sync_batches.usage_dates is 'Days that the batch touched';
comment on column ops.sync_batches.instances is 'API server instances that wrote it (tokens only)';
comment on column ops.sync_batches.redis_server is 'run_id and replication id of the Redis server at the time of applying';
comment on column ops.sync_batches.is_uncertain is 'Whether it may have been counted twice: Redis was restarted or failed over during it, in the minute after it or just before it, or its server is not known';
comment on column ops.sync_batches.drained_by is 'Host and process id of the drainer';

create table ops.dead_letters (
    dead_letter_id bigint generated always as identity primary key,
    family text not null,
    batch_id text,
    source_key bytea not null,
    position integer,
    reason text not null,
    raw bytea not null,
    raw_format text not null check (raw_format in ('string', 'hash', 'dump')),
    claimed_at timestamptz not null,
    created_at timestamptz not null default clock_timestamp(),
    replayed_at timestamptz
);
create index on ops.dead_letters (family, created_at) where replayed_at is null;
create index on ops.dead_letters (batch_id);
create unique index on ops.dead_letters (source_key, md5(raw)) where batch_id is null;
comment on table ops.dead_letters is 'Input that was refused, with its reason and raw bytes; `usage-pipeline dead-letters replay` tries it again';
comment on column ops.dead_letters.dead_letter_id is 'Number of the dead letter';
comment on column ops.dead_letters.family is 'api_key, provider, token, event or merchant';
comment on column ops.dead_letters.batch_id is 'Batch that held it; null for merchant counters, which are read and not claimed';
comment on column ops.dead_letters.source_key is 'Redis key that it came from, as raw bytes';
comment on column ops.dead_letters.position is 'Position in the batch''s queue items (events only)';
comment on column ops.dead_letters.reason is 'What was expected and what came';
comment on column ops.dead_letters.raw is 'The refused value in raw_format';
comment on column ops.dead_letters.raw_format is 'string: the bytes themselves; hash: a RESP array of fields and values; dump: Redis DUMP of a key of another type';
comment on column ops.dead_letters.claimed_at is 'When it was claimed: a replay counts it for the day it belonged to';
comment on column ops.dead_letters.created_at is 'When it was refused';
comment on column ops.dead_letters.replayed_at is 'When a replay counted it; null: it does not count yet';

create table ops.touched_days (
    family text not null,
    usage_date date not null,
    version bigint not null default 1,
    rolled_version bigint not null default 0,
    touched_at timestamptz not null default clock_timestamp(),
    rolled_at timestamptz,
    primary key (family, usage_date)
);
comment on table ops.touched_days is 'Per family and day, whether raw has changed since the daily table was last replaced';
comment on column ops.touched_days.family is 'api_key, provider or token';
comment on column ops.touched_days.usage_date is 'Day in USAGE_TIMEZONE';
comment on column ops.touched_days.version is 'Goes up by one with each batch that touches the day';
comment on column ops.touched_days.rolled_version is 'The version that the daily table contains; lower than version: the day is stale';
comment on column ops.touched_days.touched_at is 'When a batch last touched the day';
comment on column ops.touched_days.rolled_at is 'When the day was last replaced; null: never';

create table ops.late_data (
    late_data_id bigint generated always as identity primary key,
    table_name text not null,
    usage_date date not null,
    detected_at timestamptz not null default clock_timestamp(),
    before jsonb not null,
    after jsonb not null
);
create index on ops.late_data (usage_date);
comment on table ops.late_data is 'Closed days that changed after they had been rolled up: when, and by how much';
comment on column ops.late_data.late_data_id is 'Number of the change';
comment on column ops.late_data.table_name is 'Daily table that changed';
comment on column ops.late_data.usage_date is 'Closed day that changed';
comment on column ops.late_data.detected_at is 'When the day was replaced';
comment on column ops.late_data.before is 'Rows and sums of the day before';
comment on column ops.late_data.after is 'Rows and sums of the day after';

create table ops.counter_regressions (
    regression_id bigint generated always as identity primary key,
    merchant_id text not null,
    date date not null,
    metric_type text not null,
    stored_value bigint not null,
    counter_value bigint not null,
    detected_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    accepted_at timestamptz
);
create unique index on ops.counter_regressions (merchant_id, date, metric_type) where accepted_at is null;
comment on table ops.counter_regressions is 'Merchant counters that read lower than what is stored: Redis lost them. `counters accept-reset` folds them in';
comment on column ops.counter_regressions.regression_id is 'Number of the regression';
comment on column ops.counter_regressions.merchant_id is 'Merchant';
comment on column ops.counter_regressions.date is 'Day of the counter';
comment on column ops.counter_regressions.metric_type is 'What was counted';
comment on column ops.counter_regressions.stored_value is 'usage.merchant_usage.metric_value, which stays';
comment on column ops.counter_regressions.counter_value is 'What the counter last read, plus reset_offset';
comment on column ops.counter_regressions.detected_at is 'When it was first seen';
comment on column ops.counter_regressions.last_seen_at is 'When it was last seen';
comment on column ops.counter_regressions.accepted_at is 'When it was folded in; null: open';

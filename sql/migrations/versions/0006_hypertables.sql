-- Events and message archives as hypertables of TimescaleDB, in place of the empty partitioned tables.

alter table analytics.usage_events rename to usage_events_native;
create table analytics.usage_events (
    like analytics.usage_events_native including defaults including constraints including comments
);
drop table analytics.usage_events_native;
comment on table analytics.usage_events is 'LLM usage events, each stored once by event_id (analytics.usage_event_ids)';
-- The interval follows CHUNK_TIME_INTERVAL_HOURS with the first lifecycle run.
select create_hypertable(
    'analytics.usage_events', by_range('event_time', interval '24 hours'), create_default_indexes => false
);
create index on analytics.usage_events using brin (event_time) with (pages_per_range = 32, autosummarize = on);
create index on analytics.usage_events (team);
create index on analytics.usage_events (user_id);
create index on analytics.usage_events (service);
create index on analytics.usage_events (model);
-- Roll-ups and rankings read whole spans of time by team and service; both have few values, so that batches of 1,000 rows fill.
-- The names of the options are those of TimescaleDB 2.14, which newer ones take too.
-- Users and models have many: newer ones keep min/max and bloom filters of indexed columns per batch for these.
alter table analytics.usage_events set (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'team, service',
    timescaledb.compress_orderby = 'event_time'
);

alter table analytics.message_archives rename to message_archives_native;
create table analytics.message_archives (
    like analytics.message_archives_native including defaults including constraints including comments
);
drop table analytics.message_archives_native;
comment on table analytics.message_archives is 'Full prompts and responses, at most one per event (analytics.message_archive_ids)';
select create_hypertable(
    'analytics.message_archives', by_range('event_time', interval '24 hours'), create_default_indexes => false
);
create index on analytics.message_archives (event_id);
create index on analytics.message_archives (user_id, event_time);
alter table analytics.message_archives set (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'service',
    timescaledb.compress_orderby = 'event_time'
);

-- No policies: the lifecycle run compresses, drops and refreshes, since only it knows which roll-ups are complete.
create materialized view analytics.usage_hourly_counts
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    time_bucket(interval '1 hour', event_time) as hour_start,
    team,
    service,
    provider,
    model,
    count(*) as requests,
    count(*) filter (where error_type is not null or coalesce(status_code, 0) >= 400) as errors,
    sum(total_tokens) as total_tokens
from analytics.usage_events
group by hour_start, team, service, provider, model
with no data;
comment on view analytics.usage_hourly_counts is 'Requests, errors and tokens per UTC hour, up to now: a continuous aggregate; a late event shows with the next refresh';
comment on column analytics.usage_hourly_counts.hour_start is 'First moment of the hour, UTC';
comment on column analytics.usage_hourly_counts.team is 'Team that is charged';
comment on column analytics.usage_hourly_counts.service is 'Service that called the model';
comment on column analytics.usage_hourly_counts.provider is 'Provider of the model';
comment on column analytics.usage_hourly_counts.model is 'Model';
comment on column analytics.usage_hourly_counts.requests is 'Requests, all outcomes';
comment on column analytics.usage_hourly_counts.errors is 'Requests that failed, as analytics.is_error has it';
comment on column analytics.usage_hourly_counts.total_tokens is 'Sum of total_tokens';

-- What was dropped leaves a mark, and what is stored of it is kept when late rows come for it.

create table ops.dropped_spans (
    dropped_span_id bigint generated always as identity primary key,
    table_name text not null,
    span_start timestamptz not null,
    span_end timestamptz not null check (span_end > span_start),
    reason text not null,
    edges_kept boolean not null,
    dropped_at timestamptz not null default clock_timestamp(),
    returned_at timestamptz
);
create index on ops.dropped_spans (table_name, span_start) where returned_at is null;
comment on table ops.dropped_spans is 'Spans of time whose rows were dropped for ever: their roll-ups are all that is left, and late rows are added to these';
comment on column ops.dropped_spans.dropped_span_id is 'Mark';
comment on column ops.dropped_spans.table_name is 'Table whose partition or archive file it was, as schema.name';
comment on column ops.dropped_spans.span_start is 'First moment of the span; for raw.* midnight UTC of the day that it is named after';
comment on column ops.dropped_spans.span_end is 'Moment after the span; for raw.* midnight UTC of the following day';
comment on column ops.dropped_spans.reason is 'Why it was dropped, or how it was found';
comment on column ops.dropped_spans.edges_kept is 'Whether hours and days that are only partly in the span have their share of it in analytics.*_kept; where they do not, their numbers stay as they are';
comment on column ops.dropped_spans.dropped_at is 'When it was dropped, or found';
comment on column ops.dropped_spans.returned_at is 'When the sums of a day came back into the raw table, as rows of batch dropped, since late counts came; null: its rows are gone';

create table ops.kept_windows (
    grain text not null check (grain in ('hour', 'day')),
    first_moment timestamptz not null,
    end_moment timestamptz not null check (end_moment > first_moment),
    usage_date date check ((usage_date is null) = (grain = 'hour')),
    kept_at timestamptz not null default clock_timestamp(),
    primary key (grain, first_moment)
);
comment on table ops.kept_windows is 'Hours and days that have both dropped events and others: what analytics.*_kept has of them is added to their events';
comment on column ops.kept_windows.grain is 'hour or day in USAGE_TIMEZONE';
comment on column ops.kept_windows.first_moment is 'First moment of the window';
comment on column ops.kept_windows.end_moment is 'Moment after the window';
comment on column ops.kept_windows.usage_date is 'The day; null for an hour';
comment on column ops.kept_windows.kept_at is 'When its numbers were first set aside';

create table analytics.usage_hourly_kept (like analytics.usage_hourly including defaults including comments);
create index on analytics.usage_hourly_kept (hour_start);
comment on table analytics.usage_hourly_kept is 'What dropped events add to an hour (ops.kept_windows); only for hours that also have other events';

create table analytics.usage_user_daily_kept (like analytics.usage_user_daily including defaults including comments);
create index on analytics.usage_user_daily_kept (usage_date);
create index on analytics.usage_user_daily_kept (user_id);
comment on table analytics.usage_user_daily_kept is 'What dropped events add to a day, per user (ops.kept_windows); only for days that also have other events';

create table analytics.usage_latency_daily_kept (like analytics.usage_latency_daily including defaults including comments);
create index on analytics.usage_latency_daily_kept (usage_date);
comment on table analytics.usage_latency_daily_kept is 'What dropped events add to the latencies of a day (ops.kept_windows); only for days that also have other events';

create function ops.is_only_in_file(name text, first timestamptz, until timestamptz) returns boolean
language sql stable parallel safe
return exists (
    select 1
    from ops.archives
    where table_name = name
      and restored_at is null
      and deleted_at is null
      and chunk_start < until
      and chunk_end > first
);
comment on function ops.is_only_in_file is 'Whether rows of a table of that time are in an archive file and not in the table: archive restore reads them back';

create function ops.is_dropped(name text, first timestamptz, until timestamptz) returns boolean
language sql stable parallel safe
return exists (
    select 1
    from ops.dropped_spans
    where table_name = name
      and returned_at is null
      and span_start < until
      and span_end > first
);
comment on function ops.is_dropped is 'Whether rows of a table of that time were dropped: their roll-ups are all that is left';

-- The view of hours up to now and the checks ask this: the table alone does not tell all of that time.
create or replace function analytics.is_only_archived(first timestamptz, until timestamptz) returns boolean
language sql stable parallel safe
return ops.is_only_in_file('analytics.usage_events', first, until) or ops.is_dropped('analytics.usage_events', first, until);
comment on function analytics.is_only_archived is 'Whether events of that time are in an archive or were dropped, and not in the table: a roll-up from the table alone would lose them';
comment on view analytics.usage_hourly_live is 'Usage per hour up to this moment: stored hours, and those that changed since they were stored computed from the events. Hours whose events are archived or dropped are as stored';
comment on column raw.api_key_deltas.batch_id is 'Batch that drained it, see ops.sync_batches; dropped: the sums of the day when its rows were dropped';
comment on column raw.provider_deltas.batch_id is 'Batch that drained it, see ops.sync_batches; dropped: the sums of the day when its rows were dropped';
comment on column raw.token_deltas.batch_id is 'Batch that drained it, see ops.sync_batches; dropped: the sums of the day when its rows were dropped';

-- Files that were deleted at the end of the retention; days of counters are looked at one by one.
insert into ops.dropped_spans (table_name, span_start, span_end, reason, edges_kept, dropped_at)
select table_name, chunk_start, chunk_end, 'its archive file was deleted at the end of the retention', false, deleted_at
from ops.archives
where restored_at is null
  and deleted_at is not null
  and table_name not in ('raw.api_key_deltas', 'raw.provider_deltas', 'raw.token_deltas');

-- What a person decided about a merchant counter that reads lower than what is stored: who, why, and the value before and after.
-- Regressions that were settled before this version have none of it, except that nothing was added where the counter was back.
alter table ops.counter_regressions
    add column outcome text check (outcome in ('folded', 'corrected', 'closed')),
    add column value_before bigint,
    add column value_after bigint,
    add column decided_by text,
    add column reason text,
    add check (outcome is null or accepted_at is not null);
update ops.counter_regressions
set outcome = case when counter_value < stored_value then 'folded' else 'closed' end
where accepted_at is not null;
comment on table ops.counter_regressions is 'Merchant counters that read lower than what is stored: lost by Redis (`counters accept-reset`), or lowered on purpose (`counters accept-correction`)';
comment on column ops.counter_regressions.accepted_at is 'When it was settled; null: open';
comment on column ops.counter_regressions.outcome is 'folded: what was counted since the loss was added; corrected: the lower value was stored; closed: there was nothing to settle any more; null: open';
comment on column ops.counter_regressions.value_before is 'usage.merchant_usage.metric_value before; null: open, or settled by an older version';
comment on column ops.counter_regressions.value_after is 'usage.merchant_usage.metric_value after; null: open, or settled by an older version';
comment on column ops.counter_regressions.decided_by is 'Who settled it: user and host; null: open, or settled by an older version';
comment on column ops.counter_regressions.reason is 'Why, as the person said; null: open, or no reason was given';
comment on column usage.merchant_usage.metric_value is 'Count of that day: reset_offset plus the counter in Redis; never lowered by an aggregation, only by `counters accept-correction`';

-- What the odometer in Redis counted, as we saw it. A Redis that comes back from an old file, or empty, brings back an old odometer,
-- or none: what it forgot is kept here.
create table ops.odometers (
    family text not null check (family in ('api_key', 'provider', 'token', 'event', 'merchant')),
    usage_date date not null,
    counted numeric not null check (counted >= 0),
    forgotten numeric not null default 0 check (forgotten >= 0),
    fallen_at timestamptz,
    surplus numeric,
    seen_at timestamptz not null default clock_timestamp(),
    primary key (family, usage_date),
    check ((forgotten = 0) = (fallen_at is null))
);
comment on table ops.odometers is 'Per family and day: what the odometer of our recorder in Redis counts, and what it forgot when Redis lost data';
comment on column ops.odometers.family is 'api_key, provider, token, event or merchant';
comment on column ops.odometers.usage_date is 'Day in USAGE_TIMEZONE';
comment on column ops.odometers.counted is 'What the odometer counted when we last saw it';
comment on column ops.odometers.forgotten is 'By how much it fell since, over all its falls: recorded, and forgotten by Redis';
comment on column ops.odometers.fallen_at is 'When we last saw it lower than before; null: never';
comment on column ops.odometers.surplus is 'What was stored beyond what was recorded when it first fell, by writers other than our recorder; null: it never fell';
comment on column ops.odometers.seen_at is 'When we last saw it';

-- What is beyond the surplus of before a fall came out of Redis twice. No row of before this version has fallen.
alter table ops.reconciliation
    add column forgotten numeric not null default 0 check (forgotten >= 0),
    add column counted_twice numeric not null default 0 check (counted_twice >= 0);
comment on column ops.reconciliation.recorded is 'What our recorder wrote, and no other writer: the odometer usage_pipeline:recorded:{family}:{day}, and what it forgot';
comment on column ops.reconciliation.forgotten is 'Part of recorded: what the odometer forgot when Redis lost data, see ops.odometers';
comment on column ops.reconciliation.counted_twice is 'Where the odometer fell: what is stored beyond what was recorded, more than before the fall. Redis brought it back, and it was drained again; or other writers wrote it since';

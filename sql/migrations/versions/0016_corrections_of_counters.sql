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


-- An odometer lives until Redis loses it or goes back. A life that returns, since its file was put back, has forgotten nothing. So
-- what was recorded is the sum of what each life counted, beyond what it had when it began.
create table ops.odometer_lives (
    family text not null check (family in ('api_key', 'provider', 'token', 'event', 'merchant')),
    usage_date date not null,
    life text not null,
    base numeric not null check (base >= 0),
    counted numeric not null check (counted >= base),
    primary key (family, usage_date, life)
);
comment on table ops.odometer_lives is 'Lives of odometers: one begins when Redis has a new odometer, or an earlier state of one; the sum of counted - base is what was recorded';
comment on column ops.odometer_lives.family is 'api_key, provider, token, event or merchant';
comment on column ops.odometer_lives.usage_date is 'Day in USAGE_TIMEZONE';
comment on column ops.odometer_lives.life is 'Its name, which a look also writes into the odometer, as the field `life`: base and a random text';
comment on column ops.odometer_lives.base is 'What the odometer counted when this life began: above 0 where Redis came back with an earlier state';
comment on column ops.odometer_lives.counted is 'What the odometer counted when we last saw it in this life';

alter table ops.odometers
    add column life text,
    add column mark text,
    add column change text check (change in ('emptied', 'rewound', 'returned')),
    add column changed_at timestamptz,
    add column problem text,
    add check ((change is null) = (changed_at is null));
comment on column ops.odometers.counted is 'What the odometer counted when we last saw it; 0: Redis has none';
comment on column ops.odometers.forgotten is 'What was recorded in other lives and is not part of counted: forgotten by Redis. 0 again when the lost state came back and nothing was recorded without it';
comment on column ops.odometers.fallen_at is 'When forgotten last grew; null: nothing is forgotten';
comment on column ops.odometers.life is 'Its life, see ops.odometer_lives; null: Redis has no such odometer now';
comment on column ops.odometers.mark is 'The field `life` of the odometer in Redis; null: none, or Redis refused to write it';
comment on column ops.odometers.change is 'How its life changed last: emptied (gone, or begun at zero), rewound (an earlier state), returned (a life that was seen before); null: never';
comment on column ops.odometers.changed_at is 'When its life changed last; null: never';
comment on column ops.odometers.problem is 'Why the odometer cannot be read now; all else is as it was before. null: it can';

-- What was noted before this version: the odometer as it counts now, and all that it forgot.
update ops.odometers
set life = '0-' || left(md5(random()::text || family || usage_date), 12);
insert into ops.odometer_lives (family, usage_date, life, base, counted)
select family, usage_date, life, 0, counted
from ops.odometers
union all
select family, usage_date, '0-' || left(md5(random()::text || family || usage_date), 12), 0, forgotten
from ops.odometers
where forgotten > 0;

-- A counter that Redis brings back with an earlier value goes on from that value, and one that comes back after it was settled would
-- count again.
alter table ops.counter_regressions
    add column fell_to bigint,
    add column counter_before bigint,
    drop constraint counter_regressions_outcome_check,
    add constraint counter_regressions_outcome_check check (outcome in ('folded', 'restored', 'corrected', 'closed'));
create index on ops.counter_regressions (merchant_id, date, metric_type) where counter_before is not null;
update ops.counter_regressions
set fell_to = least(counter_value, stored_value);
comment on table ops.counter_regressions is 'Merchant counters that Redis has other than they were: lower than what is stored, or back after they were lost. Lost and begun again (`counters accept-reset`), brought back with another value (`counters accept-restore`), or changed on purpose (`counters accept-correction`)';
comment on column ops.counter_regressions.counter_value is 'What the counter last read, plus reset_offset; above stored_value: it is back after it was settled';
comment on column ops.counter_regressions.fell_to is 'The lowest that it read since it was detected, or since Redis last changed, plus reset_offset: the value that it fell to, and what was counted until we looked';
comment on column ops.counter_regressions.counter_before is 'What the counter read before, without reset_offset; null: open, lowered on purpose, or settled by an older version';
comment on column ops.counter_regressions.outcome is 'folded: what was counted since the loss was added; restored: what was counted since Redis brought it back was added; corrected: what the counter reads was stored; closed: there was nothing to settle any more; null: open';
comment on column usage.merchant_usage.reset_offset is 'What metric_value has beyond the counter in Redis: counted before Redis lost it or brought it back, folded in by `counters accept-reset` or `accept-restore`; 0 otherwise';
comment on column usage.merchant_usage.metric_value is 'Count of that day: reset_offset plus the counter in Redis; never lowered by an aggregation, only by `counters accept-correction`';

-- What was lowered on purpose was recorded, and is not stored.
alter table ops.reconciliation
    add column corrected numeric not null default 0 check (corrected >= 0),
    drop constraint reconciliation_check,
    add constraint reconciliation_check check (difference = recorded - stored - live - claimed - dead - duplicates - carried - corrected);
comment on column ops.reconciliation.corrected is 'By how much accepted corrections lowered merchant counters (`counters accept-correction`)';

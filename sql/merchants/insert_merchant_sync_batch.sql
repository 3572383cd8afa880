-- The ledger row of an aggregated day: nothing was claimed, so there is nothing to release.
insert into ops.sync_batches (
    batch_id, family, claimed_at, released_at, keys, stored_rows, dead_letters, usage_dates, redis_server, is_uncertain,
    drained_by
)
values (
    %(batch_id)s, 'merchant', %(claimed_at)s, now(), %(keys)s, %(stored_rows)s, %(dead_letters)s, array[%(day)s::date],
    %(redis_server)s, false, %(drained_by)s
);

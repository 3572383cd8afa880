-- The ledger row of a batch. It is the only arbiter: no row comes back when another drainer has applied the batch.
insert into ops.sync_batches (batch_id, family, claimed_at, keys, redis_server, is_uncertain, drained_by)
values (
    %(batch_id)s, %(family)s, %(claimed_at)s, %(keys)s, %(redis_server)s, %(is_uncertain)s, %(drained_by)s
)
on conflict (batch_id) do nothing
returning batch_id;

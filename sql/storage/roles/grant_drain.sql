-- What drains and merchants' aggregations may do: add what they bring from Redis, and count it. They delete nothing in PostgreSQL,
-- and neither read nor change what admits an API token. What a new step needs belongs here.
grant usage on schema raw, usage, ops to usage_drain;
grant select on
    usage.api_key_quotas,
    ops.calendar,
    ops.reconciliation
to usage_drain;
grant select, insert on
    raw.api_key_deltas,
    raw.provider_deltas,
    raw.token_deltas,
    raw.request_events,
    raw.request_event_ids
to usage_drain;
grant select, insert, update on
    usage.api_keys,
    usage.provider_usage,
    usage.merchant_usage,
    ops.sync_batches,
    ops.touched_days,
    ops.heartbeats,
    ops.counter_regressions,
    ops.merchant_letters,
    ops.odometer_lives,
    ops.odometers
to usage_drain;
-- Other dead letters it only adds: they hold whole items of landed files, prompts among them.
revoke select, update on ops.dead_letters from usage_drain;
grant insert on ops.dead_letters to usage_drain;
grant select (batch_id, source_key) on ops.dead_letters to usage_drain;
grant select (token_id, token_prefix, usage_count, last_used_at) on usage.api_access_tokens to usage_drain;
grant insert (token_id, usage_count, last_used_at) on usage.api_access_tokens to usage_drain;
grant update (usage_count, last_used_at, updated_at) on usage.api_access_tokens to usage_drain;
grant execute on function ops.create_partition to usage_drain;

-- Notes that a landed file could not be read or moved, and forgets files that nobody has seen for a month.
with gone as (
    delete from ops.landing_faults
    where last_failed_at < clock_timestamp() - interval '30 days'
      and address <> %(address)s
)
insert into ops.landing_faults as t (address, fingerprint, step, reason, copied_to)
values (%(address)s, %(fingerprint)s, %(step)s, %(reason)s, %(copied_to)s)
on conflict (address, fingerprint) do update
set step = excluded.step,
    reason = excluded.reason,
    copied_to = coalesce(excluded.copied_to, t.copied_to),
    failures = t.failures + 1,
    last_failed_at = clock_timestamp();

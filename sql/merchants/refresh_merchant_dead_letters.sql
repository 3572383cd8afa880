-- A key that is refused for the same reason as before keeps its one open dead letter, which takes on the raw value of today:
-- a counter that grows under a malformed name would otherwise leave a dead letter an hour. A discarded one keeps the value that
-- was decided about: what the counter grows to since is a dead letter of its own.
update ops.merchant_letters as d
set raw = s.raw,
    raw_format = s.raw_format,
    claimed_at = %(claimed_at)s
from staged_merchant_dead_letter as s
where d.dead_letter_id = (
    select min(known.dead_letter_id)
    from ops.merchant_letters as known
    where known.batch_id is null
      and known.replayed_at is null
      and known.discarded_at is null
      and md5(known.source_key) = md5(s.source_key)
      and known.reason = s.reason
)
and not exists (
    select
    from ops.merchant_letters as same
    where same.batch_id is null
      and md5(same.source_key) = md5(s.source_key)
      and md5(same.raw) = md5(s.raw)
);

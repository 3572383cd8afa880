-- Decides that open dead letters do not count. They are kept, with who decided it, when and why.
update ops.dead_letters
set discarded_at = clock_timestamp(),
    discarded_by = %(discarded_by)s,
    discard_reason = %(reason)s
where dead_letter_id = any(%(ids)s)
  and replayed_at is null
  and discarded_at is null
returning dead_letter_id;

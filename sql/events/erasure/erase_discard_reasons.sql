-- A reason for which dead letters were discarded, without the user.
update ops.dead_letters
set discard_reason = %(erased)s
where discard_reason = %(reason)s;

-- A dead letter without the user.
update ops.dead_letters
set raw = %(raw)s,
    reason = %(reason)s
where dead_letter_id = %(number)s;

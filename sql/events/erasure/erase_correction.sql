-- A correction without the user.
update ops.corrections
set reason = %(reason)s,
    before = %(before)s,
    after = %(after)s
where correction_id = %(number)s;

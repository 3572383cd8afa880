-- A replay refused the dead letter again.
update ops.dead_letters
set attempts = attempts + 1,
    tried_at = clock_timestamp()
where dead_letter_id = %s;

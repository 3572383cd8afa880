-- A dead letter whose erased twin is there already.
delete from ops.dead_letters
where dead_letter_id = %(number)s;

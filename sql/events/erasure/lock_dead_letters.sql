-- A dead letter, held against a replay until the transaction ends.
select raw, raw_format, reason
from ops.dead_letters
where dead_letter_id = %(number)s
for update;

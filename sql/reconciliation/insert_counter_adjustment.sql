-- Notes an adjustment with who and why, and returns its number.
with correction as (
    insert into ops.corrections (corrected_by, reason, subject, before, after)
    values (%(corrected_by)s, %(reason)s, %(subject)s, %(before)s, %(after)s)
    returning correction_id
)
insert into ops.counter_adjustments (correction_id, family, usage_date, field, amount)
select correction_id, %(family)s, %(usage_date)s, %(field)s, %(amount)s
from correction
returning correction_id;

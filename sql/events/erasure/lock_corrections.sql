-- Corrections of a subject, or of any (%%), held until the transaction ends.
select correction_id, reason, before, after
from ops.corrections
where subject like %(subject)s
order by correction_id
for update;

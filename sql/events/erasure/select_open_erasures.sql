-- Erasures that were cut short.
select erasure_id, pseudonym, salt, proof
from ops.erasures
where finished_at is null
order by erasure_id;

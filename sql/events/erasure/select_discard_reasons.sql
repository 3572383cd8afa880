-- The reasons for which dead letters were discarded. Thousands share one.
select distinct discard_reason
from ops.dead_letters
where discard_reason is not null
order by discard_reason;

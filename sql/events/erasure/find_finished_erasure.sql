-- Whether an erasure before this one erased something under the same pseudonym.
select 1
from ops.erasures
where pseudonym = %(pseudonym)s
  and erasure_id <> %(erasure_id)s
  and counts <> '{}'
limit 1;

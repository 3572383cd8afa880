-- Rows of a partition, and a sum over the identity of each row version: any insert, update or delete changes one of them.
-- Values are not read, so that large texts cost nothing; VACUUM FULL changes it too, and then the next run tries again.
select
    count(*),
    coalesce(sum(hashtextextended(ctid::text || xmin::text, 0)::numeric), 0)::text
from {partition};

-- What the newest reconciliation did not find, by family. Its rows are of one transaction; older ones are of days that are over.
select
    family,
    min(measure) as measure,
    sum(missing) as missing,
    sum(recorded) as recorded,
    count(*) as days,
    min(usage_date) as first_day,
    max(usage_date) as last_day,
    min(missing_since) as since
from ops.reconciliation
where missing > 0
  and reconciled_at > (select max(reconciled_at) from ops.reconciliation) - interval '10 minutes'
group by family
order by family;

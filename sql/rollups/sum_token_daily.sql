-- Rows and sums of one day of usage.token_daily, to tell by how much a replacement changed it.
select jsonb_build_object(
    'rows', count(*),
    'usage_count', coalesce(sum(usage_count), 0)
)
from usage.token_daily
where usage_date = %(usage_date)s;

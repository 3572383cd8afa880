-- Rows and sums of one day of usage.provider_daily, to tell by how much a replacement changed it.
select jsonb_build_object(
    'rows', count(*),
    'upload_count', coalesce(sum(upload_count), 0),
    'total_file_size', coalesce(sum(total_file_size), 0)
)
from usage.provider_daily
where usage_date = %(usage_date)s;

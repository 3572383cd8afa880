-- Adds to a merchant's day, beside what its counter in Redis has. The time of the last change stays: it tells what Redis may have lost
-- since. A day without a row gets one if the merchant has others of that metric.
with adjusted as (
    update usage.merchant_usage
    set metric_value = metric_value + %(amount)s,
        reset_offset = reset_offset + %(amount)s
    where merchant_id = %(merchant_id)s
      and date = %(day)s
      and metric_type = %(metric_type)s
    returning metric_value
),
added as (
    insert into usage.merchant_usage (merchant_id, date, metric_type, metric_value, reset_offset)
    select %(merchant_id)s, %(day)s, %(metric_type)s, %(amount)s, %(amount)s
    where not exists (select from adjusted)
      and exists (
        select
        from usage.merchant_usage
        where merchant_id = %(merchant_id)s
          and metric_type = %(metric_type)s
      )
    returning metric_value
)
select metric_value from adjusted
union all
select metric_value from added;

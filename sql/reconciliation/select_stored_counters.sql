-- What is stored of one family of counters, per day of the `sources` of select_stored_usage.sql: in raw, and in its daily table.
select sources.family, usage_date, (
    select sum({uses}) from {raw} as raw where raw.usage_date = sources.usage_date
) as amount
from sources
where sources.family = {family}
  and not is_rolled
union all
select sources.family, usage_date, (
    select sum({uses}) from {daily} as daily where daily.usage_date = sources.usage_date
)
from sources
where sources.family = {family}
  and (is_rolled or is_elsewhere)

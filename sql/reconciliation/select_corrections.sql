-- By how much people lowered and raised what is stored, per family and day. Accepted corrections of counters that were raised on
-- purpose need nothing: what they read was recorded.
with corrected as (
    select 'merchant' as family, date as usage_date, value_before - value_after as lowered, 0 as raised
    from ops.counter_regressions
    where outcome = 'corrected'
      and value_after < value_before
    union all
    select family, usage_date, greatest(-amount, 0), greatest(amount, 0)
    from ops.counter_adjustments
    -- The only counts that are recorded.
    where family = 'merchant'
       or (family, field) in (('api_key', 'total_requests'), ('provider', 'upload_count'), ('token', 'usage_count'))
)
select family, usage_date, sum(lowered) as lowered, sum(raised) as raised
from corrected
where usage_date between %(first_day)s and %(last_day)s
group by family, usage_date;

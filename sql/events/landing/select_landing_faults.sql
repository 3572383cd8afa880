-- Faults of landed files. One is tried again after ten minutes, and after each failure later, up to a day.
select
    address,
    fingerprint,
    step,
    reason,
    copied_to,
    failures,
    first_failed_at,
    last_failed_at,
    last_failed_at + least(interval '1 day', interval '10 minutes' * power(2, least(failures, 10) - 1))
        <= clock_timestamp() as is_due
from ops.landing_faults
where address = any(%(addresses)s)
order by address;

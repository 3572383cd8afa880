-- Such a reason without the user; how many files had it.
with files as (
    update ops.landed_files
    set reason = %(erased)s
    where reason = %(reason)s
    returning 1
),
faults as (
    update ops.landing_faults
    set reason = %(erased)s
    where reason = %(reason)s
    returning 1
)
select (select count(*) from files), (select count(*) from faults);

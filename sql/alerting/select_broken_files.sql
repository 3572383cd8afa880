-- Landed files that were broken lately, each by its newest reading: one that was put right and read is not among them. Not the
-- reason: it may name a user, who may be erased, and alerts and their channels keep copies.
select address, broken_at
from (
    select distinct on (address)
        address,
        outcome,
        ended_at as broken_at
    from ops.landed_files
    where ended_at >= %(since)s
    order by address, landed_file_id desc
) as newest
where outcome = 'broken'
order by broken_at, address;

-- Why files of the landing folder are broken, or could not be read or moved: what came may be what somebody wrote into them.
select reason
from ops.landed_files
where reason is not null
union
select reason
from ops.landing_faults
order by reason;

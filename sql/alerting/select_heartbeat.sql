-- What the sender of a sign of life remembers.
select details
from ops.heartbeats
where name = %(name)s;

-- Gives the ids of {registry} the hashes that their rows get now.
update {registry} as t
set payload_hash = mended.payload_hash
from mended_hash as mended
where mended.event_id = t.event_id;

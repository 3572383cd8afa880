-- What became of a file that was read.
select address, outcome, reason, received, inserted, duplicates, conflicts, rejected
from ops.landed_files
where address = %(address)s
  and fingerprint = %(fingerprint)s;

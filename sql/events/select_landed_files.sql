-- Which of the files, given as pairs of address and fingerprint, were read.
select address, fingerprint
from unnest(%(addresses)s::text[], %(fingerprints)s::text[]) as wanted (address, fingerprint)
join ops.landed_files using (address, fingerprint);

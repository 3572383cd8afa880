-- The ledger row of a file that was read.
insert into ops.landed_files (
    address, fingerprint, bytes, kind, outcome, reason, received, inserted, duplicates, conflicts, rejected
)
values (
    %(address)s, %(fingerprint)s, %(bytes)s, %(kind)s, %(outcome)s, %(reason)s, %(received)s, %(inserted)s, %(duplicates)s,
    %(conflicts)s, %(rejected)s
)
on conflict (address, fingerprint) do nothing;

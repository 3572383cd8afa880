-- The ledger row of an ingested batch.
insert into ops.ingest_batches (batch_id, kind, source, received, inserted, duplicates, conflicts, rejected)
values (%(batch_id)s, %(kind)s, %(source)s, %(received)s, %(inserted)s, %(duplicates)s, %(conflicts)s, %(rejected)s);

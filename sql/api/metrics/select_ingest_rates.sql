-- What became of the items that were ingested in the last seconds, over HTTP and from files, per kind.
select
    kinds.kind,
    coalesce(sum(batches.inserted), 0)::bigint as inserted,
    coalesce(sum(batches.duplicates), 0)::bigint as duplicates,
    coalesce(sum(batches.conflicts), 0)::bigint as conflicts,
    coalesce(sum(batches.rejected), 0)::bigint as rejected
from unnest(array['events', 'archives']) as kinds (kind)
left join ops.ingest_batches as batches
    on batches.kind = kinds.kind
    and batches.stored_at > clock_timestamp() - make_interval(secs => %(seconds)s)
group by kinds.kind
order by kinds.kind;

-- The moment before which nothing of the given tables is left, neither in a partition nor in a file; at most the given cutoff.
select least(
    %(cutoff)s::timestamptz,
    %(oldest_chunk)s::timestamptz,
    (
        select min(chunk_start)
        from ops.archives
        where table_name = any(%(tables)s)
          and restored_at is null
          and deleted_at is null
    )
);

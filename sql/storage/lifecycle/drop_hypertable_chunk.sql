-- Drops the chunk of a hypertable that has exactly these bounds.
select drop_chunks(%(table)s::text::regclass, older_than => %(end)s::timestamptz, newer_than => %(start)s::timestamptz);

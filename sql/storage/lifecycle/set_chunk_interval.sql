-- The length of future chunks of a hypertable, where it is another one so far.
select set_chunk_time_interval(%(table)s::text::regclass, %(interval)s)
from timescaledb_information.dimensions
where format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = %(table)s::text::regclass
  and time_interval <> %(interval)s;

-- What the flag says has grown: batches about a change of server are flagged too.

comment on column ops.sync_batches.is_uncertain is 'Whether it may have been counted twice: Redis was restarted or failed over during it, in the minute after it or just before it, or its server is not known';

-- A row of an index has at most 2.7 KB, while a name in Redis may have any length: one long name under `usage:` failed every
-- aggregation. So the index holds the name's digest.

drop index ops.dead_letters_source_key_md5_idx;
create unique index dead_letters_merchant_idx on ops.dead_letters (md5(source_key), md5(raw)) where batch_id is null;
